"""Where and how a command runs: devices, processes, launch, locks, memory."""
