"""From a request's pixels to time, memory and energy, by model, device and techniques; pure standard library."""
