"""Sources to a booted machine: the stages that tasks.py and the tests call."""
