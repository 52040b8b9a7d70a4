"""Pages of the documentation that are made from the source: settings, configs, and the messages of errors."""
