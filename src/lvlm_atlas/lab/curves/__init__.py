"""What techniques cost in answers: every one alone, over its main knob, on the lab's trained models."""
