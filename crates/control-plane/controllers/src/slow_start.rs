//! Batches that double while all goes well, so that a quota or an admission refusal is met once and not five hundred times.

/// The sizes of the batches for `count` calls: 1, 2, 4, and so on.
/// Source: `slowStartBatch` in `pkg/controller/replicaset/replica_set.go`.
pub(crate) fn batches(count: usize) -> impl Iterator<Item = usize> {
    let mut left = count;
    let mut next = 1;
    std::iter::from_fn(move || {
        let size = next.min(left);
        left -= size;
        next *= 2;
        (size > 0).then_some(size)
    })
}

#[cfg(test)]
mod tests {
    use super::batches;

    #[test]
    fn batches_double_and_add_up() {
        for (count, sizes) in [(0, vec![]), (1, vec![1]), (3, vec![1, 2]), (10, vec![1, 2, 4, 3])] {
            assert_eq!(batches(count).collect::<Vec<_>>(), sizes);
        }
        assert_eq!(batches(500).sum::<usize>(), 500);
    }
}
