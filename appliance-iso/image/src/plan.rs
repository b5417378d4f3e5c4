//! Which disks an image needs.
//!
//! A disk costs vSphere an attach and a detach, whatever is in it: layers that come together are written into one.  Two
//! images share what they share only when there is a disk that ends with the shared layers, so the first layer, which is a
//! distribution's base more often than not, gets a disk of its own when it is worth sharing.

use std::ops::Range;

use crate::Digest;

/// A chain of more disks is slow to open; beyond this the layers of a new image are written anew from further down.
pub const DEPTH: usize = 4;
/// A first layer of fewer bytes, as it is sent, is not worth a disk of its own: to fetch it again for the next image takes less
/// than the attach and the detach of a disk, some 2 s on a vCenter.
const WORTH: u64 = 16 << 20;
/// The DiffID of a tar archive without entries: two blocks of zeros.
const EMPTY: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

/// A layer of an image to be pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of its content.
    pub diff_id: Digest,
    /// Its size as it is sent.
    pub size: u64,
}

/// What is to be done for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// How many of its first layers are on a disk that is there.
    pub there: usize,
    /// The layers of each disk to be made, each the child of the one before; empty layers are in them, and cost nothing.
    pub disks: Vec<Range<usize>>,
}

/// Whether a layer has no content.
pub fn is_empty(layer: &Layer) -> bool {
    layer.diff_id.as_str() == EMPTY
}

/// The `ChainID` of each layer with those below it (OCI image-spec, config.md, "Layer `ChainID`").
pub fn chain_ids(layers: &[Layer]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(layers.len());
    for layer in layers {
        let next = match chain.last() {
            None => layer.diff_id.clone(),
            Some(below) => Digest::new(format!("{below} {}", layer.diff_id).as_bytes()),
        };
        chain.push(next);
    }
    chain
}

/// Plans an image; `depth` tells how many disks the chain has that ends with the first n layers, if there is such a one.
pub fn plan(layers: &[Layer], depth: impl Fn(usize) -> Option<usize>) -> Plan {
    let nothing_above = |n: usize| layers[n..].iter().all(is_empty);
    // The topmost disk that leaves room for another, or that has it all.
    let found = (1..=layers.len()).rev().find_map(|n| {
        let depth = depth(n)?;
        (depth < DEPTH || nothing_above(n)).then_some(n)
    });
    let there = found.unwrap_or(0);
    let mut disks = Vec::new();
    let mut from = there;
    if !nothing_above(from) || there == 0 {
        let base = layers.first().is_some_and(|l| l.size >= WORTH && !is_empty(l));
        if there == 0 && base && !nothing_above(1) {
            disks.push(0..1);
            from = 1;
        }
        disks.push(from..layers.len());
    }
    Plan { there, disks }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layer(n: usize, size: u64) -> Layer {
        Layer { diff_id: Digest::new(&n.to_be_bytes()), size }
    }

    fn empty() -> Layer {
        Layer { diff_id: EMPTY.parse().unwrap(), size: 32 }
    }

    fn planned(there: usize, disks: &[(usize, usize)]) -> Plan {
        Plan { there, disks: disks.iter().map(|&(from, to)| from..to).collect() }
    }

    fn nothing(_: usize) -> Option<usize> {
        None
    }

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let layers = [layer(0, 1), layer(1, 1)];
        let chain = chain_ids(&layers);
        assert_eq!(chain[0], layers[0].diff_id);
        assert_eq!(chain[1], Digest::new(format!("{} {}", layers[0].diff_id, layers[1].diff_id).as_bytes()));
    }

    #[test]
    fn layers_that_come_together_are_one_disk_but_for_a_base_worth_sharing() {
        let mut based: Vec<Layer> = (0..10).map(|n| layer(n, 100)).collect();
        assert_eq!(plan(&based, nothing), planned(0, &[(0, 10)]));
        based[0].size = WORTH;
        assert_eq!(plan(&based, nothing), planned(0, &[(0, 1), (1, 10)]));
        assert_eq!(plan(&based, |n| (n == 1).then_some(1)), planned(1, &[(1, 10)]));
        assert_eq!(plan(&based, |n| (n == 10).then_some(2)), planned(10, &[]));
        assert_eq!(plan(&[], nothing), planned(0, &[(0, 0)]), "an image without layers has a disk");
    }

    #[test]
    fn an_empty_layer_makes_no_disk() {
        let layers = [layer(0, WORTH), empty(), empty()];
        assert_eq!(plan(&layers, nothing), planned(0, &[(0, 3)]));
        assert_eq!(plan(&layers, |n| (n == 1).then_some(1)), planned(1, &[]));
        assert_eq!(plan(&[empty()], nothing), planned(0, &[(0, 1)]));
    }

    proptest! {
        /// Images built one on the other, one layer at a time: every chain is bounded, and every layer stands in it once.
        #[test]
        fn chains_are_bounded(counts in proptest::collection::vec(1_usize..300, 1..12), base in 1_u64..(2 * WORTH)) {
            let mut layers = vec![layer(0, base)];
            let mut made: Vec<(usize, usize)> = Vec::new();
            for count in counts {
                for n in 0..count {
                    layers.push(layer(layers.len() + n, 10));
                }
                let plan = plan(&layers, |n| made.iter().find(|(at, _)| *at == n).map(|(_, depth)| *depth));
                let mut depth = made.iter().find(|(at, _)| *at == plan.there).map_or(0, |(_, depth)| *depth);
                let mut at = plan.there;
                for disk in plan.disks {
                    prop_assert_eq!(disk.start, at);
                    at = disk.end;
                    depth += 1;
                    made.retain(|(end, _)| *end != at);
                    made.push((at, depth));
                    prop_assert!(depth <= DEPTH);
                }
                prop_assert_eq!(at, layers.len());
            }
        }
    }
}
