use super::plan::Structure;
use super::*;

fn square_train(rank: usize) -> Structure {
    let modes = [4, 8, 8, 4];
    let ranks = [1, rank, rank, rank, 1];
    Structure::Train(
        (0..4)
            .map(|k| [ranks[k], modes[k], modes[k], ranks[k + 1]])
            .collect(),
    )
}

/// The plan's products, and that they are cheaper than the dense route when it is not taken.
#[test]
fn the_plan_picks_the_cheap_route() {
    for (rank, groups) in [(2, 2), (8, 2), (16, 2), (64, 1)] {
        let structure = square_train(rank);
        let program = structure.plan(128, Route::Auto);
        assert_eq!(program.steps.len(), groups, "rank {rank}");
        assert_eq!(structure.plan(128, Route::Dense).steps.len(), 1);
        assert_eq!(structure.plan(128, Route::Cores).steps.len(), 4);
        if groups > 1 {
            assert!(program.work(128) < structure.plan(128, Route::Dense).work(128));
        }
    }
    // Low rank: two products, from the input, nothing merged or turned.
    let low_rank = Structure::Train(vec![[1, 1, 784, 16], [16, 1024, 1, 1]]);
    let program = low_rank.plan(32, Route::Auto);
    assert!(matches!(
        program.nodes[..],
        [Node::Leaf { .. }, Node::Leaf { .. }]
    ));
    assert_eq!(program.work(32), 32 * 16 * (784 + 1024));
    // One sample does not pay for the dense matrix of a fat train that many samples pay for.
    let fat = square_train(64);
    assert!(fat.plan(1, Route::Auto).steps.len() > 1);
}

#[test]
fn a_program_is_a_chain_over_a_forest() {
    let tucker = Structure::Tucker {
        rows: vec![[4, 2], [5, 3]],
        cols: vec![[3, 2], [6, 4]],
    };
    for structure in [square_train(3), tucker] {
        for route in [Route::Auto, Route::Dense, Route::Cores] {
            let program = structure.plan(7, route);
            let [m, n] = structure.matrix_shape();
            assert_eq!(
                (
                    program.steps[0].input_len(),
                    program.steps.last().unwrap().output_len()
                ),
                (n, m)
            );
            for pair in program.steps.windows(2) {
                assert_eq!(pair[0].output_len(), pair[1].input_len());
            }
            let mut uses = vec![0; program.nodes.len()];
            program.steps.iter().for_each(|s| uses[s.node] += 1);
            for (index, node) in program.nodes.iter().enumerate() {
                let inputs = match *node {
                    Node::Leaf { .. } => vec![],
                    Node::Merge { left, right, .. } | Node::Product { left, right, .. } => {
                        vec![left, right]
                    }
                    Node::Turn { input, .. } => vec![input],
                };
                for input in inputs {
                    assert!(input < index);
                    uses[input] += 1;
                }
            }
            assert!(uses.iter().all(|&u| u == 1), "{uses:?}");
        }
    }
}
