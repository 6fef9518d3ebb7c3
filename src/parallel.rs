//! Loops over independent elements on all cores, or one after another where there are no threads (a browser).
//!
//! With the feature `threads` these are rayon's traits; without it they are the few of them that the crate uses, made
//! of the standard library's iterators. Both give the same bits: no result depends on the order.

#[cfg(feature = "threads")]
pub(crate) use rayon::prelude::{
    IndexedParallelIterator, IntoParallelIterator, ParallelIterator, ParallelSlice, ParallelSliceMut,
};

#[cfg(not(feature = "threads"))]
pub(crate) use serial::{IntoParallelIterator, ParallelSlice, ParallelSliceMut};

#[cfg(not(feature = "threads"))]
mod serial {
    /// `into_par_iter` is `into_iter`.
    pub(crate) trait IntoParallelIterator: IntoIterator + Sized {
        fn into_par_iter(self) -> Self::IntoIter {
            self.into_iter()
        }
    }

    impl<T: IntoIterator> IntoParallelIterator for T {}

    /// `par_chunks` is `chunks`.
    pub(crate) trait ParallelSlice<T> {
        fn par_chunks(&self, size: usize) -> std::slice::Chunks<'_, T>;
    }

    impl<T> ParallelSlice<T> for [T] {
        fn par_chunks(&self, size: usize) -> std::slice::Chunks<'_, T> {
            self.chunks(size)
        }
    }

    /// `par_chunks_mut` is `chunks_mut`.
    pub(crate) trait ParallelSliceMut<T> {
        fn par_chunks_mut(&mut self, size: usize) -> std::slice::ChunksMut<'_, T>;
    }

    impl<T> ParallelSliceMut<T> for [T] {
        fn par_chunks_mut(&mut self, size: usize) -> std::slice::ChunksMut<'_, T> {
            self.chunks_mut(size)
        }
    }
}

/// Does `work` while another thread does `aside`, where there are threads; without them `aside` is left out. What
/// `aside` returns is not looked at: it prepares what `work` would prepare itself.
#[cfg(feature = "threads")]
pub(crate) fn meanwhile<T, A>(aside: impl FnOnce() -> A + Send, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        scope.spawn(|| drop(aside()));
        work()
    })
}

/// See above.
#[cfg(not(feature = "threads"))]
pub(crate) fn meanwhile<T, A>(_aside: impl FnOnce() -> A, work: impl FnOnce() -> T) -> T {
    work()
}
