//! User side of the probes: load, attach, resolve offsets, read maps. Needs no gateway.
