"""The networks that the paper compares with, at switchable precision, and the choice among all of stage 2."""
