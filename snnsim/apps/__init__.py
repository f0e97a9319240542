"""Training, sweeps, export and the command line: what people run, made of all the other parts."""
