"""The same application for every contender: each module is one framework."""
