"""From a suite to records: the runner, its store, the worker process, and the engines that start it."""
