//! System calls: the only place where unsafe code may stand.
