"""What the authors test with, for the tests of users: nothing here runs in an experiment."""
