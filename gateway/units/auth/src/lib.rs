//! Who asks, and may they: tokens verified against cached keys, scopes, claims.
