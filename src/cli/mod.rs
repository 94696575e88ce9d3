//! Arguments to intents, and everything that is printed.
