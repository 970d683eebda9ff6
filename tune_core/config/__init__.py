"""What the user asked for, checked when it is made."""
