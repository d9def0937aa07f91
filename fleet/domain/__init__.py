"""What is true. Pure: no ORM, clock, dice, log or I/O; time, randomness and ids are arguments."""
