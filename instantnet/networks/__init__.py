"""The networks of the paper's comparison, at switchable precision, and the choice of stage 2 among all networks."""
