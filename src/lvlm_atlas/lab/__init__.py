"""The floor that knows both torch and data: it runs the references that the entries name."""
