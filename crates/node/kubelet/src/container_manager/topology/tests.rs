//! Tables of hints and what they come to.

use super::{
    super::{hardware::tests::machine, numa::mask},
    *,
};

fn hint(nodes: &[usize], preferred: bool) -> Hint {
    Hint { nodes: Some(mask(nodes)), preferred }
}

fn provider(name: &str, hints: Option<Vec<Hint>>) -> Hints {
    Hints::from([(name.to_owned(), hints)])
}

#[track_caller]
fn check(nodes: usize, providers: &[Hints], wanted: [(Policy, Option<&[usize]>, bool); 3]) {
    let hardware = machine(nodes, 1, 2, 1);
    for (policy, nodes, admitted) in wanted {
        assert_eq!(merge(policy, false, &hardware, providers), (nodes.map(mask), admitted), "{policy:?}");
    }
}

use Policy::{BestEffort, Restricted, SingleNumaNode};

#[test]
fn nobody_cares() {
    check(
        2,
        &[Hints::new(), provider("x", None)],
        [(BestEffort, Some(&[0, 1]), true), (Restricted, Some(&[0, 1]), true), (SingleNumaNode, None, true)],
    );
}

#[test]
fn all_can_be_on_one_node() {
    let cpu = provider("cpu", Some(vec![hint(&[0], true), hint(&[1], true), hint(&[0, 1], false)]));
    let gpu = provider("gpu", Some(vec![hint(&[1], true), hint(&[0, 1], false)]));
    check(
        2,
        &[cpu, gpu, Hints::new()],
        [(BestEffort, Some(&[1]), true), (Restricted, Some(&[1]), true), (SingleNumaNode, Some(&[1]), true)],
    );
}

#[test]
fn each_is_on_another_node() {
    let cpu = provider("cpu", Some(vec![hint(&[0], true), hint(&[0, 1], false)]));
    let gpu = provider("gpu", Some(vec![hint(&[1], true), hint(&[0, 1], false)]));
    check(
        2,
        &[cpu, gpu],
        [(BestEffort, Some(&[0]), true), (Restricted, Some(&[0]), false), (SingleNumaNode, None, false)],
    );
}

#[test]
fn two_nodes_are_the_least() {
    let cpu = provider("cpu", Some(vec![hint(&[0, 1], true)]));
    check(
        2,
        &[cpu],
        [(BestEffort, Some(&[0, 1]), true), (Restricted, Some(&[0, 1]), true), (SingleNumaNode, None, false)],
    );
}

#[test]
fn something_cannot_be_had_at_all() {
    let gpu = provider("gpu", Some(vec![]));
    let cpu = provider("cpu", Some(vec![hint(&[0], true), hint(&[1], true)]));
    check(
        2,
        &[cpu, gpu],
        [(BestEffort, Some(&[0]), true), (Restricted, Some(&[0]), false), (SingleNumaNode, None, false)],
    );
}

#[test]
fn what_is_not_the_best_has_as_many_nodes_as_the_largest_needs() {
    // The processors need two nodes, but those that are free are not the ones near the device.
    let cpu = provider(
        "cpu",
        Some(vec![hint(&[0, 1], false), hint(&[0, 1, 2], false), hint(&[0, 1, 2, 3], false)]),
    );
    let gpu = provider("gpu", Some(vec![hint(&[2], true), hint(&[1, 2], false), hint(&[0, 1, 2, 3], false)]));
    let hardware = machine(4, 1, 2, 1);
    assert_eq!(merge(BestEffort, false, &hardware, &[cpu, gpu]), (Some(mask(&[0, 1])), true));
}

#[test]
fn near_nodes_are_better_if_so_asked() {
    // Hints for any two of four nodes but the first two.
    let pairs = [[0, 2], [0, 3], [1, 3], [2, 3]];
    let cpu = provider("cpu", Some(pairs.iter().map(|pair| hint(pair, true)).collect()));
    let hardware = machine(4, 1, 2, 1);
    assert_eq!(merge(Restricted, false, &hardware, std::slice::from_ref(&cpu)), (Some(mask(&[0, 2])), true));
    assert_eq!(merge(Restricted, true, &hardware, &[cpu]), (Some(mask(&[2, 3])), true));
}

/// Every combination by itself, as upstream tries them: nothing is lost by taking equal ones together.
#[test]
fn combinations_are_those_of_every_single_one() {
    fn every(
        choices: &[Vec<Hint>],
        so_far: &mut Vec<Hint>,
        machine: NodeMask,
        found: &mut BTreeSet<(NodeMask, bool)>,
    ) {
        let Some((first, rest)) = choices.split_first() else {
            let named: Vec<NodeMask> = so_far.iter().filter_map(|hint| hint.nodes).collect();
            let common = named.iter().fold(machine, |common, nodes| common.and(*nodes));
            let equal = named.windows(2).all(|pair| pair[0] == pair[1]);
            if !common.is_empty() {
                found.insert((common, equal && so_far.iter().all(|hint| hint.preferred)));
            }
            return;
        };
        for hint in first {
            so_far.push(*hint);
            every(rest, so_far, machine, found);
            so_far.pop();
        }
    }
    let machine = mask(&[0, 1, 2]);
    let mut random = fastrand::Rng::with_seed(36);
    for _ in 0..300 {
        let choices: Choices = (0..random.usize(1..5))
            .map(|_| {
                (0..random.usize(1..5))
                    .map(|_| {
                        let nodes: NodeMask = (0..3).filter(|_| random.bool()).collect();
                        Hint { nodes: (!nodes.is_empty()).then_some(nodes), preferred: random.bool() }
                    })
                    .collect()
            })
            .collect();
        let mut wanted = BTreeSet::new();
        every(&choices, &mut Vec::new(), machine, &mut wanted);
        assert_eq!(combinations(&choices, machine), wanted, "{choices:?}");
    }
}
