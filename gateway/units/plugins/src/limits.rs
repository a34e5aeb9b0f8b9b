//! What one instance may grow to.

use wasmtime::ResourceLimiter;

/// Elements that one table may have: what the sandbox's slots are laid out for.
pub(crate) const MOST_TABLE_ELEMENTS: usize = 20_000;

/// The bound on one instance, and whether it was met.
#[derive(Debug)]
pub(crate) struct Bounds {
    memory: usize,
    /// Memory granted so far, over all memories of the component.
    granted: usize,
    refused: bool,
}

impl Bounds {
    pub(crate) const fn new(memory: usize) -> Self {
        Self { memory, granted: 0, refused: false }
    }

    /// What was refused to one request is forgotten for the next; what was granted is still there.
    pub(crate) const fn begin_anew(&mut self) {
        self.refused = false;
    }

    /// Bytes of memory that the instance has.
    pub(crate) const fn granted(&self) -> usize {
        self.granted
    }

    /// The bound on memory, if the guest has asked for more than that.
    pub(crate) fn overstepped(&self) -> Option<usize> {
        self.refused.then_some(self.memory)
    }
}

impl ResourceLimiter for Bounds {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let granted = self.granted.saturating_add(desired.saturating_sub(current));
        if granted > self.memory {
            self.refused = true;
            return Ok(false);
        }
        self.granted = granted;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let granted = desired <= MOST_TABLE_ELEMENTS;
        self.refused |= !granted;
        Ok(granted)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_bound_holds_over_all_memories_of_a_component() {
        let mut bounds = Bounds::new(3 << 16);
        assert!(bounds.memory_growing(0, 1 << 16, None).unwrap());
        assert!(bounds.memory_growing(0, 1 << 16, None).unwrap());
        assert!(bounds.overstepped().is_none());
        assert!(!bounds.memory_growing(1 << 16, 3 << 16, None).unwrap());
        assert_eq!(bounds.overstepped(), Some(3 << 16));
        assert!(bounds.memory_growing(1 << 16, 2 << 16, None).unwrap());
    }
}
