"""What every stage needs: settings, checkpoints, logs and progress, devices and processes."""
