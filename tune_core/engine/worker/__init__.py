"""What runs in the processes of trials and of their task runs."""
