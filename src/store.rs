//! Parameters on a device, held once for all sessions of a process: counted, and evicted when room is needed. It does
//! not know what a buffer is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::content::ContentId;

/// Buffers by what they hold: a content and its layout ([`crate::plan::Content`]), or what was prepared from some.
pub struct Store<B> {
    inner: Mutex<Inner<B>>,
}

struct Inner<B> {
    entries: HashMap<ContentId, Entry<B>>,
    clock: u64,
    stats: StoreStats,
}

struct Entry<B> {
    buffer: Arc<B>,
    bytes: u64,
    last_used: u64,
}

/// What a store holds and has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StoreStats {
    /// Buffers that it holds.
    pub entries: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of the buffers that a session uses.
    pub used_bytes: u64,
    /// How often a wanted buffer was already there.
    pub hits: u64,
    /// Bytes of parameters ever uploaded.
    pub uploaded_bytes: u64,
    /// Bytes ever evicted.
    pub evicted_bytes: u64,
}

impl<B> Default for Store<B> {
    fn default() -> Self {
        let inner = Inner { entries: HashMap::new(), clock: 0, stats: StoreStats::default() };
        Self { inner: Mutex::new(inner) }
    }
}

impl<B> Store<B> {
    fn lock(&self) -> MutexGuard<'_, Inner<B>> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    /// The buffer that holds this content, if it is there.
    pub fn get(&self, content: &ContentId) -> Option<Arc<B>> {
        let mut inner = self.lock();
        inner.clock += 1;
        let now = inner.clock;
        let entry = inner.entries.get_mut(content)?;
        entry.last_used = now;
        let buffer = entry.buffer.clone();
        inner.stats.hits += 1;
        Some(buffer)
    }

    /// Adds a buffer; if another session has meanwhile added one with this content, returns that one instead.
    pub fn insert(&self, content: ContentId, bytes: u64, buffer: B) -> Arc<B> {
        let mut inner = self.lock();
        inner.clock += 1;
        let entry = Entry { buffer: Arc::new(buffer), bytes, last_used: inner.clock };
        inner.entries.entry(content).or_insert(entry).buffer.clone()
    }

    /// Counts an upload.
    pub fn count_upload(&self, bytes: u64) {
        self.lock().stats.uploaded_bytes += bytes;
    }

    /// Evicts buffers that no session uses, the longest unused first, until the rest and `more` bytes stay within
    /// `limit`. With a limit of 0, only what sessions use stays.
    pub fn make_room(&self, more: u64, limit: u64) {
        let mut inner = self.lock();
        let mut bytes: u64 = inner.entries.values().map(|entry| entry.bytes).sum::<u64>() + more;
        for content in inner.unused() {
            if bytes <= limit {
                break;
            }
            bytes -= inner.entries[&content].bytes;
            inner.evict(&content);
        }
    }

    /// Evicts this content unless a session uses it.
    pub fn forget(&self, content: &ContentId) {
        self.lock().evict(content);
    }

    /// Evicts everything that no session uses; returns whether there was anything.
    pub fn evict_unused(&self) -> bool {
        let mut inner = self.lock();
        let unused = inner.unused();
        unused.iter().for_each(|content| inner.evict(content));
        !unused.is_empty()
    }

    /// What it holds, and has done so far.
    pub fn stats(&self) -> StoreStats {
        let inner = self.lock();
        let bytes = |used: bool| -> u64 {
            inner.entries.values().filter(|e| !used || Arc::strong_count(&e.buffer) > 1).map(|e| e.bytes).sum()
        };
        StoreStats { entries: inner.entries.len(), bytes: bytes(false), used_bytes: bytes(true), ..inner.stats }
    }
}

impl<B> Inner<B> {
    /// The buffers that no session uses, the longest unused first.
    fn unused(&self) -> Vec<ContentId> {
        let mut unused: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| Arc::strong_count(&entry.buffer) == 1)
            .map(|(content, entry)| (entry.last_used, *content))
            .collect();
        unused.sort_unstable();
        unused.into_iter().map(|(_, content)| content).collect()
    }

    fn evict(&mut self, content: &ContentId) {
        if self.entries.get(content).is_some_and(|entry| Arc::strong_count(&entry.buffer) == 1) {
            let entry = self.entries.remove(content).expect("it was found above");
            self.stats.evicted_bytes += entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> ContentId {
        ContentId::of(&[&[n]])
    }

    #[test]
    fn equal_contents_are_held_once() {
        let store = Store::default();
        let first = store.insert(id(1), 10, "first");
        assert_eq!(*store.insert(id(1), 10, "second"), "first");
        assert_eq!(store.get(&id(1)).as_deref(), Some(&"first"));
        assert_eq!(store.get(&id(2)), None);
        let stats = store.stats();
        assert_eq!((stats.entries, stats.bytes, stats.used_bytes, stats.hits), (1, 10, 10, 1));
        drop(first);
        assert_eq!(store.stats().used_bytes, 0);
    }

    #[test]
    fn the_longest_unused_goes_first_and_what_is_used_stays() {
        let store = Store::default();
        let used = store.insert(id(1), 10, ());
        store.insert(id(2), 10, ());
        store.insert(id(3), 10, ());
        store.get(&id(2));
        store.make_room(0, 25);
        assert!(store.get(&id(3)).is_none(), "2 was asked for after 3");
        assert!(store.get(&id(2)).is_some());
        store.make_room(10, 25);
        assert!(store.get(&id(2)).is_none() && store.get(&id(1)).is_some());
        store.make_room(0, 0);
        assert!(store.get(&id(1)).is_some(), "a session uses it");
        drop(used);
        assert!(store.evict_unused() && !store.evict_unused());
        assert_eq!(store.stats().evicted_bytes, 30);
    }
}
