"""What the lab's model is asked: tasks, each with one right answer known from how its pictures were made."""
