//! Where the channels of a map lie among its lanes.

use std::sync::Arc;

use crate::element::LANES;

/// The place of every channel in blocks of sixteen lanes.
///
/// Channels follow each other, except where maps were put side by side: each of them keeps whole
/// blocks, and the lanes that its last block does not fill stay unused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channels {
    /// Block times sixteen plus lane, per channel.
    positions: Arc<[u32]>,
    blocks: usize,
}

impl Channels {
    /// `count` channels one after the other.
    pub fn new(count: usize) -> Self {
        Self {
            positions: (0..count as u32).collect(),
            blocks: count.div_ceil(LANES),
        }
    }

    /// Those of `parts` one after the other, each in blocks of its own.
    pub fn joined<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let (mut positions, mut blocks) = (Vec::new(), 0);
        for part in parts {
            let first = (blocks * LANES) as u32;
            positions.extend(part.positions.iter().map(|position| first + position));
            blocks += part.blocks;
        }
        Self {
            positions: positions.into(),
            blocks,
        }
    }

    /// How many channels there are.
    pub fn count(&self) -> usize {
        self.positions.len()
    }

    /// Blocks of sixteen lanes.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Block and lane of every channel, in their order.
    pub(crate) fn places(&self) -> impl ExactSizeIterator<Item = (usize, usize)> {
        self.positions
            .iter()
            .map(|&position| (position as usize / LANES, position as usize % LANES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_maps_keep_their_blocks() {
        let joined = Channels::joined([&Channels::new(3), &Channels::new(17), &Channels::new(1)]);
        assert_eq!((joined.count(), joined.blocks()), (21, 4));
        let places: Vec<_> = joined.places().collect();
        assert_eq!(places[2..5], [(0, 2), (1, 0), (1, 1)]);
        assert_eq!(places[18..], [(1, 15), (2, 0), (3, 0)]);
        assert_eq!(Channels::joined([&Channels::new(5)]), Channels::new(5));
    }
}
