//! A listener on loopback and an observer that watches nothing but its port.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use sluice_observer::{ConnectionFacts, Direction, End, EndpointStats, Observer, Options, StartError};
use socket2::SockRef;

/// The kernel counts in softirq, which on loopback has usually run when the call returns; a loaded machine may defer it.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
pub(crate) enum Family {
    V4,
    V6,
}

#[derive(Debug)]
pub(crate) struct World {
    observer: Observer,
    listener: Option<TcpListener>,
    address: SocketAddr,
}

/// Runs a case once over IPv4 and once over IPv6.
pub(crate) fn each_family(case: impl Fn(World)) {
    for family in [Family::V4, Family::V6] {
        if let Some(world) = World::new(family) {
            case(world);
        }
    }
}

impl World {
    /// `None`, with the reason on standard error, where this machine does not let us observe.
    pub(crate) fn new(family: Family) -> Option<Self> {
        Self::with(family, Options::default())
    }

    pub(crate) fn with(family: Family, options: Options) -> Option<Self> {
        let loopback = match family {
            Family::V4 => "127.0.0.1:0",
            Family::V6 => "[::1]:0",
        };
        let listener = match TcpListener::bind(loopback) {
            Ok(listener) => listener,
            Err(error) => {
                eprintln!("SKIPPED: cannot listen on {loopback}: {error}");
                return None;
            }
        };
        let address = listener.local_addr().unwrap();
        match Observer::start(&Options { ports: vec![address.port()], ..options }) {
            Ok(observer) => Some(Self { observer, listener: Some(listener), address }),
            Err(
                error @ (StartError::Capabilities(_)
                | StartError::Refused { .. }
                | StartError::Cgroup { .. }
                | StartError::NoProcess),
            ) => {
                eprintln!("SKIPPED: {error}");
                None
            }
            Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string)),
        }
    }

    pub(crate) fn observer(&self) -> &Observer {
        &self.observer
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection, both ends of it.
    pub(crate) fn connected(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.address).unwrap();
        let (server, _) = self.listener.as_ref().unwrap().accept().unwrap();
        (client, server)
    }

    pub(crate) fn stop_listening(&mut self) {
        self.listener = None;
    }

    /// What was counted for our connections to the listener, as soon as it is as expected.
    #[track_caller]
    pub(crate) fn outgoing(&self, expected: impl Fn(&EndpointStats) -> bool) -> EndpointStats {
        self.await_stats(Direction::Outgoing, expected)
    }

    /// The same for the connections as the listener sees them.
    #[track_caller]
    pub(crate) fn incoming(&self, expected: impl Fn(&EndpointStats) -> bool) -> EndpointStats {
        self.await_stats(Direction::Incoming, expected)
    }

    #[track_caller]
    fn await_stats(&self, direction: Direction, expected: impl Fn(&EndpointStats) -> bool) -> EndpointStats {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all = self.observer.endpoints().unwrap();
            match all.iter().find(|stats| stats.id.direction == direction) {
                Some(stats) if expected(stats) => return stats.clone(),
                _ if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
                _ => panic!("not as expected within {PATIENCE:?}: {}", serde_json::to_string_pretty(&all).unwrap()),
            }
        }
    }

    /// Events of our own side since the last call; the listener's sockets are watched too and have ends of their own.
    pub(crate) fn events(&self) -> Vec<ConnectionFacts> {
        let mut events = Vec::new();
        self.observer.drain_events(|event| {
            if event.connection.direction == Direction::Outgoing {
                events.push(event.connection);
            }
        });
        events
    }

    /// The one event of our own side, which must say `end`.
    #[track_caller]
    pub(crate) fn event(&self, end: End) -> ConnectionFacts {
        let mut events = self.events();
        assert_eq!(events.len(), 1, "{events:?}");
        let event = events.remove(0);
        assert_eq!(event.end, end);
        event
    }
}

/// Closes with a RST.
pub(crate) fn abort(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}
