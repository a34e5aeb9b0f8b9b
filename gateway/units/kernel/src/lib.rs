//! What the kernel saw of the gateway's connections, joined to upstreams.
