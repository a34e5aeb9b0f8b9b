//! Memory for plugins: a bump pointer with free lists.
//!
//! A plugin lives for microseconds, most often in an instance made for it alone, so what counts is how few pages an
//! allocation touches and how little there is to set up: the first block comes from the page that already holds the stack
//! and the data, and nothing is initialised beyond 33 words. Freed blocks go to a list of their size (a power of two) and
//! are handed out again, so that an instance which is used for many requests does not grow. Blocks are never merged: the
//! price is at most twice the memory, and a pattern of ever larger blocks gives nothing back.
//!
//! Deviation from the usual arena that is reset after each phase: a value kept in a `static` would be torn down under its
//! owner, in safe code. Free lists cost a few instructions more and have no such trap.

use std::alloc::Layout;
use std::ptr;

/// Where more memory comes from.
pub(crate) trait Source {
    /// Gives at least `bytes` more, as start and end addresses; the start is the previous end if it can be.
    fn more(&mut self, bytes: usize) -> Option<(usize, usize)>;
}

/// The smallest block holds the link of its free list and is aligned for everything but SIMD.
const SMALLEST: usize = 16;

/// Blocks by size: list `n` holds blocks of `1 << n` bytes.
pub(crate) struct Heap<S> {
    free: [usize; usize::BITS as usize],
    next: usize,
    end: usize,
    source: S,
}

impl<S: Source> Heap<S> {
    pub(crate) const fn new(source: S) -> Self {
        Self { free: [0; usize::BITS as usize], next: 0, end: 0, source }
    }

    /// The size of the block that serves `layout`.
    fn block_size(layout: Layout) -> Option<usize> {
        layout.size().max(layout.align()).max(SMALLEST).checked_next_power_of_two()
    }

    /// A block for `layout`, or null if there is no memory left.
    pub(crate) fn allocate(&mut self, layout: Layout) -> *mut u8 {
        let Some(size) = Self::block_size(layout) else { return ptr::null_mut() };
        let list = &mut self.free[size.trailing_zeros() as usize];
        let head = *list;
        if head != 0 && head.is_multiple_of(layout.align()) {
            let block = ptr::with_exposed_provenance_mut::<usize>(head);
            // SAFETY: a block on a list was handed out by this heap, is at least two words long, aligned to 16, and was
            // given back: its first word is the list's link, written by `release`.
            *list = unsafe { block.read() };
            return block.cast();
        }
        self.bump(size, layout.align().max(SMALLEST)).map_or(ptr::null_mut(), ptr::with_exposed_provenance_mut)
    }

    fn bump(&mut self, size: usize, align: usize) -> Option<usize> {
        let mut start = self.next.checked_next_multiple_of(align)?;
        if self.next == 0 || start.checked_add(size)? > self.end {
            let (from, to) = self.source.more(size.checked_add(align)?)?;
            if from != self.end {
                self.next = from;
            }
            self.end = to;
            start = self.next.checked_next_multiple_of(align)?;
        }
        self.next = start + size;
        Some(start)
    }

    /// Takes a block back.
    ///
    /// # Safety
    /// `block` came from `allocate` of this heap with this `layout`, and is used by nobody any more.
    pub(crate) unsafe fn release(&mut self, block: *mut u8, layout: Layout) {
        let Some(size) = Self::block_size(layout) else { return };
        if block.addr() + size == self.next {
            self.next = block.addr();
            return;
        }
        let list = &mut self.free[size.trailing_zeros() as usize];
        // SAFETY: the caller gives up the block, which is at least two words long and aligned to 16.
        unsafe { block.cast::<usize>().write(*list) };
        *list = block.expose_provenance();
    }

    /// Whether the block of `layout` can hold `new_size` bytes where it is; grows it if it is the last.
    pub(crate) fn fits_in_place(&mut self, block: *mut u8, layout: Layout, new_size: usize) -> bool {
        let new = Layout::from_size_align(new_size, layout.align()).ok().and_then(Self::block_size);
        let (Some(old), Some(new)) = (Self::block_size(layout), new) else { return false };
        if old == new {
            return true;
        }
        let is_last = block.addr() + old == self.next;
        if is_last && block.addr().checked_add(new).is_some_and(|end| end <= self.end) {
            self.next = block.addr() + new;
            return true;
        }
        false
    }
}

#[cfg(target_arch = "wasm32")]
mod global {
    use std::alloc::{GlobalAlloc, Layout};
    use std::arch::wasm32::{memory_grow, memory_size};
    use std::cell::UnsafeCell;

    use super::{Heap, Source};

    const PAGE: usize = 64 * 1024;

    unsafe extern "C" {
        /// The linker's: the first address after the stack and the data.
        static __heap_base: u8;
    }

    /// Linear memory: at first what the linker left of it, then what the gateway grants.
    struct Linear {
        started: bool,
    }

    impl Source for Linear {
        fn more(&mut self, bytes: usize) -> Option<(usize, usize)> {
            let end = memory_size::<0>() * PAGE;
            if !self.started {
                self.started = true;
                let start = (&raw const __heap_base).addr();
                if end - start >= bytes {
                    return Some((start, end));
                }
            }
            let pages = bytes.div_ceil(PAGE);
            (memory_grow::<0>(pages) != usize::MAX).then(|| (end, end + pages * PAGE))
        }
    }

    struct PluginHeap(UnsafeCell<Heap<Linear>>);

    // SAFETY: a plugin has one thread: the contract has none to offer, and the target is built without atomics.
    unsafe impl Sync for PluginHeap {}

    #[global_allocator]
    static HEAP: PluginHeap = PluginHeap(UnsafeCell::new(Heap::new(Linear { started: false })));

    // SAFETY: `Heap` hands out blocks of at least the layout's size and alignment that overlap no other live block. With
    // one thread, and no call out of the heap's own functions, no two borrows of the cell's content exist at once.
    unsafe impl GlobalAlloc for PluginHeap {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: see above: no other borrow exists.
            unsafe { &mut *self.0.get() }.allocate(layout)
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: see above; the caller's promise is `release`'s.
            unsafe { (*self.0.get()).release(block, layout) }
        }

        unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
            // SAFETY: see above.
            if unsafe { &mut *self.0.get() }.fits_in_place(block, layout, new_size) {
                return block;
            }
            // SAFETY: the caller promises that `new_size` is not 0 and does not overflow when rounded to the alignment.
            let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
            // SAFETY: the old block holds `layout.size()` bytes, the new one `new_size`, and they do not overlap.
            unsafe {
                let new = self.alloc(new_layout);
                if !new.is_null() {
                    new.copy_from_nonoverlapping(block, layout.size().min(new_size));
                    self.dealloc(block, layout);
                }
                new
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One slab of the machine's memory, handed out in steps of at most 4 KiB beyond what is asked.
    struct Slab {
        start: usize,
        given: usize,
        size: usize,
    }

    impl Slab {
        fn new(size: usize) -> Self {
            let memory = vec![0_u128; size / 16].leak();
            Self { start: memory.as_mut_ptr().expose_provenance(), given: 0, size }
        }
    }

    impl Source for Slab {
        fn more(&mut self, bytes: usize) -> Option<(usize, usize)> {
            let from = self.start + self.given;
            let step = bytes.next_multiple_of(4096);
            (self.given + step <= self.size).then(|| {
                self.given += step;
                (from, from + step)
            })
        }
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn live_blocks_never_overlap_and_are_aligned() {
        let mut heap = Heap::new(Slab::new(1 << 20));
        let mut live: Vec<(usize, Layout)> = Vec::new();
        let mut seed = 7_u64;
        for step in 0..4_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let pick = (seed >> 33) as usize;
            if step % 3 != 0 || live.len() < 40 {
                let layout = layout(1 + pick % 300, 1 << (pick % 7));
                let block = heap.allocate(layout);
                if !block.is_null() {
                    assert_eq!(block.addr() % layout.align(), 0);
                    for (start, other) in &live {
                        assert!(block.addr() >= start + other.size() || block.addr() + layout.size() <= *start);
                    }
                    live.push((block.addr(), layout));
                }
            }
            if live.len() > 60 {
                let (start, layout) = live.swap_remove(pick % live.len());
                // SAFETY: it came from this heap with this layout and was removed from the live ones.
                unsafe { heap.release(ptr::with_exposed_provenance_mut(start), layout) };
            }
        }
    }

    #[test]
    fn the_same_work_again_and_again_takes_no_more_memory() {
        let mut heap = Heap::new(Slab::new(1 << 16));
        for _ in 0..10_000 {
            let blocks: Vec<_> = (1..20).map(|n| (heap.allocate(layout(n * 13, 8)), layout(n * 13, 8))).collect();
            assert!(blocks.iter().all(|(block, _)| !block.is_null()));
            for (block, layout) in blocks {
                // SAFETY: it came from this heap with this layout.
                unsafe { heap.release(block, layout) };
            }
        }
    }

    #[test]
    fn a_growing_last_block_stays_where_it_is() {
        let mut heap = Heap::new(Slab::new(1 << 16));
        let block = heap.allocate(layout(64, 8));
        assert!(heap.fits_in_place(block, layout(64, 8), 1024));
        let after = heap.allocate(layout(16, 8));
        assert!(after.addr() >= block.addr() + 1024);
        assert!(!heap.fits_in_place(block, layout(1024, 8), 4096));
    }

    #[test]
    fn an_exhausted_source_gives_null() {
        let mut heap = Heap::new(Slab::new(1 << 12));
        assert!(heap.allocate(layout(1 << 14, 8)).is_null());
        assert!(heap.allocate(layout(isize::MAX as usize - 7, 8)).is_null());
    }
}
