//! A pool of numbered things, some taken, with upstream's two bands: random picks come from the upper band first, so that
//! the lower one stays free for those who choose for themselves.

use std::collections::{HashMap, HashSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolError {
    Taken,
    OutOfRange,
    Full,
}

/// Offsets from 0 to `size`, of which the first `reserved` are picked last. It says what is worth asking for; what decides
/// is stored.
#[derive(Debug)]
pub struct Pool {
    size: u32,
    reserved: u32,
    /// By stored objects, with how many of them.
    stored: HashMap<u32, u32>,
    /// By writes that have not ended.
    claimed: HashSet<u32>,
}

impl Pool {
    pub fn new(size: u32, reserved: u32) -> Self {
        Self { size, reserved: reserved.min(size), stored: HashMap::new(), claimed: HashSet::new() }
    }

    fn is_taken(&self, offset: u32) -> bool {
        self.stored.contains_key(&offset) || self.claimed.contains(&offset)
    }

    pub fn claim(&mut self, offset: u32) -> Result<(), PoolError> {
        if offset >= self.size {
            return Err(PoolError::OutOfRange);
        }
        if self.is_taken(offset) {
            return Err(PoolError::Taken);
        }
        self.claimed.insert(offset);
        Ok(())
    }

    /// The end of a claim, whatever became of it.
    pub fn end(&mut self, offset: u32) {
        self.claimed.remove(&offset);
    }

    /// A stored object has it.
    pub fn store(&mut self, offset: u32) {
        *self.stored.entry(offset).or_default() += 1;
    }

    /// A stored object has it no longer.
    pub fn free(&mut self, offset: u32) {
        if let Some(count) = self.stored.get_mut(&offset) {
            *count -= 1;
            if *count == 0 {
                self.stored.remove(&offset);
            }
        }
    }

    /// Claims any free offset: the first at or after a random place of the upper band, else of the lower band.
    pub fn pick(&mut self, random: u32) -> Result<u32, PoolError> {
        for (start, end) in [(self.reserved, self.size), (0, self.reserved)] {
            let length = end - start;
            if length == 0 {
                continue;
            }
            let first = random % length;
            let free = (0..length).map(|i| start + (first + i) % length).find(|o| !self.is_taken(*o));
            if let Some(offset) = free {
                self.claimed.insert(offset);
                return Ok(offset);
            }
        }
        Err(PoolError::Full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_band_is_picked_last() {
        let mut pool = Pool::new(6, 2);
        assert_eq!(pool.claim(3), Ok(()));
        assert_eq!(pool.claim(3), Err(PoolError::Taken));
        assert_eq!(pool.claim(6), Err(PoolError::OutOfRange));
        let picked: Vec<u32> = (0..5).map(|i| pool.pick(i * 7).unwrap()).collect();
        let (upper, lower) = picked.split_at(3);
        assert!(upper.iter().all(|o| *o >= 2) && lower.iter().all(|o| *o < 2), "{picked:?}");
        assert_eq!(pool.pick(0), Err(PoolError::Full));
        pool.end(4);
        pool.store(4);
        assert_eq!(pool.pick(0), Err(PoolError::Full));
        pool.free(4);
        assert_eq!(pool.pick(1), Ok(4));
    }
}
