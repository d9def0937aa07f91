"""The supervisor: `manage.py up` spawns the processes of an installation and does nothing else."""
