//! Everything before a request exists: accept loop, stream guard, TLS, PROXY protocol, trusted proxies, path normalisation.
