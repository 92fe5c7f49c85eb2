//! A sorted map in chunks: a snapshot is one reference, a write after it copies one chunk.

use std::sync::Arc;

use super::Entry;

const CHUNK: usize = 256;

type Chunk = Arc<Vec<Arc<Entry>>>;

/// Objects in key order, at one moment. Cloning costs a reference count.
#[derive(Clone, Default)]
pub struct Snapshot {
    chunks: Arc<Vec<Chunk>>,
    len: usize,
}

impl Snapshot {
    pub(super) fn from_sorted(entries: Vec<Arc<Entry>>) -> Self {
        let len = entries.len();
        let mut chunks = Vec::with_capacity(len / CHUNK + 1);
        let mut it = entries.into_iter().peekable();
        while it.peek().is_some() {
            chunks.push(Arc::new(it.by_ref().take(CHUNK).collect::<Vec<_>>()));
        }
        Self { chunks: Arc::new(chunks), len }
    }
    /// A snapshot of objects that are already in key order.
    #[must_use]
    pub fn of(entries: Vec<Arc<Entry>>) -> Self {
        Self::from_sorted(entries)
    }
    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The chunk in which `key` is or would be.
    fn chunk(&self, key: &str) -> usize {
        self.chunks.partition_point(|c| c.last().is_some_and(|e| &*e.key < key))
    }
    /// One object.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        let c = self.chunks.get(self.chunk(key))?;
        let i = c.binary_search_by(|e| (*e.key).cmp(key)).ok()?;
        c.get(i).cloned()
    }
    pub(super) fn insert(&mut self, e: Arc<Entry>) -> Option<Arc<Entry>> {
        let at = self.chunk(&e.key);
        let chunks = Arc::make_mut(&mut self.chunks);
        let at = at.min(chunks.len().saturating_sub(1));
        let Some(slot) = chunks.get_mut(at) else {
            chunks.push(Arc::new(vec![e]));
            self.len = 1;
            return None;
        };
        let c = Arc::make_mut(slot);
        match c.binary_search_by(|x| x.key.cmp(&e.key)) {
            Ok(i) => Some(std::mem::replace(&mut c[i], e)),
            Err(i) => {
                c.insert(i, e);
                self.len += 1;
                if c.len() > 2 * CHUNK {
                    let upper = c.split_off(CHUNK);
                    chunks.insert(at + 1, Arc::new(upper));
                }
                None
            }
        }
    }
    pub(super) fn remove(&mut self, key: &str) -> Option<Arc<Entry>> {
        let at = self.chunk(key);
        let chunks = Arc::make_mut(&mut self.chunks);
        let slot = chunks.get_mut(at)?;
        let i = slot.binary_search_by(|x| (*x.key).cmp(key)).ok()?;
        let c = Arc::make_mut(slot);
        let old = c.remove(i);
        if c.is_empty() {
            chunks.remove(at);
        }
        self.len -= 1;
        Some(old)
    }
    /// Objects with a key of at least `start`, in key order.
    pub fn range<'a>(&'a self, start: &'a str) -> impl Iterator<Item = &'a Arc<Entry>> + 'a {
        let at = self.chunk(start);
        let skip = self.chunks.get(at).map_or(0, |c| c.partition_point(|e| &*e.key < start));
        self.chunks.iter().skip(at).flat_map(|c| c.iter()).skip(skip)
    }
    /// Objects whose key begins with `prefix`.
    pub fn prefixed<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Entry>> + 'a {
        self.range(prefix).take_while(move |e| e.key.starts_with(prefix))
    }
}
