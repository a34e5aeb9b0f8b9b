//! What is counted apart from what.

/// Which side opened the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Role {
    /// This host connected to the remote endpoint: counted per remote address and port.
    Outgoing = 0,
    /// A remote host connected to a listener here. Clients come from any number of addresses and ephemeral ports, so
    /// these connections are counted per local port and not per client: the maps stay small whoever knocks.
    Incoming = 1,
}

impl Role {
    /// The role stored as `value`; everything but the number of [`Role::Incoming`] is outgoing.
    #[must_use]
    pub const fn from_raw(value: u8) -> Self {
        if value == Self::Incoming as u8 { Self::Incoming } else { Self::Outgoing }
    }
}

/// The key of the endpoint table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct EndpointKey {
    /// The remote address in network byte order; IPv4 in its IPv6-mapped form (`::ffff:a.b.c.d`), so that a socket of
    /// either family to the same IPv4 host is the same endpoint. All zero for [`Role::Incoming`].
    pub address: [u32; 4],
    /// The remote port for [`Role::Outgoing`], the local one for [`Role::Incoming`]; host byte order.
    pub port: u16,
    /// A [`Role`] as a number.
    pub role: u8,
    /// Always zero: map keys are compared byte for byte.
    pub zero: u8,
    /// The process id (thread group) that opened the connection where counting by process is on, otherwise zero.
    pub owner: u32,
}

const _: () = assert!(size_of::<EndpointKey>() == 24);
