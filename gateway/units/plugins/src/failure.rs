//! Why a phase failed: for the operator's logs and metrics. The client learns no more than its status.

use std::time::Duration;

use sluice_vocabulary::share::OverShare;
use wasmtime::Trap;

use crate::bodies::LONGEST_REPLACEMENT;
use crate::edits::TooMuch;
use crate::phase::Phase;

/// Why a phase failed, or could not be tried.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The guest trapped: a panic, a bad memory access, an exhausted stack.
    #[error("trapped: {0}")]
    Trap(String),
    /// It ran longer than its deadline.
    #[error("ran past its deadline of {0} ms")]
    Deadline(u64),
    /// It failed after memory or a table was refused to it.
    #[error("wanted more than its {limit} bytes of memory: {trap}")]
    Memory {
        /// The bound.
        limit: usize,
        /// How it failed then.
        trap: String,
    },
    /// What it handed back oversteps a bound or breaks the contract.
    #[error("handed back what cannot be used: {0}")]
    Output(String),
    /// A body is larger than what a plugin may be given of one.
    #[error("a body of more than {0} bytes: more is not gathered")]
    Body(usize),
    /// No instance came free in time.
    #[error("no instance came free within {0} ms")]
    Overloaded(u128),
    /// The tenant uses as much as it may.
    #[error(transparent)]
    Share(#[from] OverShare),
    /// The pool had a permit but no room.
    #[error("the pool of instances is exhausted: {0}")]
    Crowded(String),
    /// The sandbox itself could not run it.
    #[error("the sandbox could not run it: {0}")]
    Host(String),
}

/// Reasons as the `reason` label of the failure metric names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Kind {
    Trap,
    Deadline,
    Memory,
    Output,
    Body,
    Overloaded,
    Share,
    Host,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] =
        [Self::Trap, Self::Deadline, Self::Memory, Self::Output, Self::Body, Self::Overloaded, Self::Share, Self::Host];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::Output => "output",
            Self::Body => "body",
            Self::Overloaded => "overloaded",
            Self::Share => "share",
            Self::Host => "host",
        }
    }
}

impl Failure {
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Trap(_) => Kind::Trap,
            Self::Deadline(_) => Kind::Deadline,
            Self::Memory { .. } => Kind::Memory,
            Self::Output(_) => Kind::Output,
            Self::Body(_) => Kind::Body,
            Self::Overloaded(_) | Self::Crowded(_) => Kind::Overloaded,
            Self::Share(_) => Kind::Share,
            Self::Host(_) => Kind::Host,
        }
    }

    /// When a client may try again, where it is for want of room.
    pub(crate) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Share(over) => Some(over.retry_after()),
            Self::Overloaded(_) | Self::Crowded(_) => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// Whether it is the implementation's own, so that another may do better: not the sandbox's, nor for want of room.
    pub(crate) const fn is_its_own(&self) -> bool {
        matches!(self.kind(), Kind::Trap | Kind::Deadline | Kind::Memory | Kind::Output)
    }

    /// What an error of the engine means. `refused_memory` is the bound, where the guest had asked for more.
    pub(crate) fn of(error: &wasmtime::Error, deadline_ms: u64, refused_memory: Option<usize>) -> Self {
        if let Some(misuse) = error.downcast_ref::<Misuse>() {
            return Self::Output(misuse.to_string());
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => Self::Deadline(deadline_ms),
            Some(trap) => {
                let place = error.downcast_ref::<wasmtime::WasmBacktrace>().and_then(place_of);
                let trap = place.map_or_else(|| trap.to_string(), |place| format!("{trap} in {place}"));
                match refused_memory {
                    Some(limit) => Self::Memory { limit, trap },
                    None => Self::Trap(trap),
                }
            }
            // A component of many memories or tables takes more of the pool than its one permit stands for.
            None if error.is::<wasmtime::PoolConcurrencyLimitError>() => Self::Crowded(error.to_string()),
            None => match refused_memory {
                // It could not even start: a memory or table of its own was refused to it.
                Some(limit) => Self::Memory { limit, trap: error.root_cause().to_string() },
                // What is left is the engine refusing what the guest passed: text that is not UTF-8, a pointer outside its
                // memory, a wrong discriminant, or more data than one call may copy.
                None => Self::Output(error.root_cause().to_string()),
            },
        }
    }
}

/// The innermost function that has a name of the guest's own, where the component carries names.
fn place_of(backtrace: &wasmtime::WasmBacktrace) -> Option<String> {
    let named = |frame: &wasmtime::FrameInfo| {
        let name = frame.func_name()?;
        let machinery = ["panic", "abort", "core::", "std::", "alloc::", "rust_", "__rust", "_R"];
        (!machinery.iter().any(|part| name.contains(part))).then(|| name.chars().take(120).collect())
    };
    backtrace.frames().iter().find_map(named)
}

/// A host function was called in a way the contract forbids: the phase ends there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Misuse {
    #[error("the response was asked for before there is one")]
    NoResponse,
    #[error("a body was asked for in a phase that is about none")]
    NoBody,
    #[error("{0} bytes were put in the place of a body: expected at most {LONGEST_REPLACEMENT}")]
    LongReplacement(usize),
    #[error("trailers were asked for in a phase that is about none")]
    NoTrailers,
    #[error("how the exchange went was asked for before it was over")]
    NotOver,
    #[error("an upstream was chosen or asked for when the request was on its way already")]
    TooLate,
    #[error("{0} random bytes were asked for at once: expected at most 1024")]
    TooMuchRandom(usize),
    #[error("the machine has no random bytes to give")]
    NoEntropy,
    #[error("another service was asked in {0}, where nothing can wait")]
    CannotWait(Phase),
    #[error("the connection is not known")]
    NoConnection,
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
}
