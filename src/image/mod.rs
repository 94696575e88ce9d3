//! References, registries, archives, the layer store, unpacking.
