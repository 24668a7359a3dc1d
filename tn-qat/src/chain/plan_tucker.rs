//! The plan of a Tucker network: factors one by one or merged by side, or the dense matrix.

use super::plan::{Route, merge_time, product_time, step_time};
use super::{MergeDims, Node, Program, Step, Turned};

/// One side of a Tucker layer: factors `[n_k, s_k]`, factor k in slot `first + k`.
struct Side<'a> {
    first: usize,
    factors: &'a [[usize; 2]],
}

impl Side<'_> {
    fn full(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.factors.iter().map(|f| f[axis]).product())
    }

    /// Kronecker product of all factors, `[n, s]`.
    fn merged(&self, nodes: &mut Vec<Node>) -> usize {
        let mut shape = [1, 1];
        let mut last = None;
        for (k, &[n, s]) in self.factors.iter().enumerate() {
            nodes.push(Node::Leaf {
                slot: self.first + k,
                len: n * s,
            });
            let leaf = nodes.len() - 1;
            if let Some(left) = last {
                let dims = MergeDims {
                    r: 1,
                    m: shape[0],
                    n: shape[1],
                    s: 1,
                    p: n,
                    q: s,
                    t: 1,
                };
                nodes.push(Node::Merge {
                    left,
                    right: leaf,
                    dims,
                });
            }
            shape = [shape[0] * n, shape[1] * s];
            last = Some(nodes.len() - 1);
        }
        last.unwrap_or(0)
    }

    /// Contracts the long sides away (`Turned::Yes`, the input) or the short ones (`Turned::No`, the output).
    fn steps(&self, turned: Turned, grouped: bool, program: &mut Program) {
        let size = |[long, short]: [usize; 2]| match turned {
            Turned::Yes => (short, long),
            Turned::No => (long, short),
        };
        if grouped {
            let node = self.merged(&mut program.nodes);
            let (rows, inner) = size(self.full());
            program.steps.push(Step {
                node,
                turned,
                lead: 1,
                rows,
                inner,
                cols: 1,
            });
            return;
        }
        for (k, &factor) in self.factors.iter().enumerate() {
            let (rows, inner) = size(factor);
            program.nodes.push(Node::Leaf {
                slot: self.first + k,
                len: rows * inner,
            });
            program.steps.push(Step {
                node: program.nodes.len() - 1,
                turned,
                lead: self.factors[..k].iter().map(|&f| size(f).0).product(),
                rows,
                inner,
                cols: self.factors[k + 1..].iter().map(|&f| size(f).1).product(),
            });
        }
    }
}

pub(super) fn plan_tucker(
    rows: &[[usize; 2]],
    cols: &[[usize; 2]],
    batch: usize,
    route: Route,
) -> Program {
    let out = Side {
        first: 1,
        factors: rows,
    };
    let input = Side {
        first: 1 + rows.len(),
        factors: cols,
    };
    let ([m, r], [n, s]) = (out.full(), input.full());
    let chain = |group_in: bool, group_out: bool| {
        let mut program = Program {
            nodes: Vec::new(),
            steps: Vec::new(),
        };
        input.steps(Turned::Yes, group_in, &mut program);
        program.nodes.push(Node::Leaf {
            slot: 0,
            len: r * s,
        });
        let node = program.nodes.len() - 1;
        program.steps.push(Step {
            node,
            turned: Turned::No,
            lead: 1,
            rows: r,
            inner: s,
            cols: 1,
        });
        out.steps(Turned::No, group_out, &mut program);
        program
    };
    let dense = || {
        let mut nodes = Vec::new();
        let u = out.merged(&mut nodes);
        nodes.push(Node::Leaf {
            slot: 0,
            len: r * s,
        });
        let core = nodes.len() - 1;
        let v = input.merged(&mut nodes);
        let first = nodes.len();
        if m * r * s + m * s * n <= r * s * n + m * r * n {
            nodes.push(Node::Product {
                left: u,
                right: core,
                right_turned: Turned::No,
                dims: [m, r, s],
            });
            nodes.push(Node::Product {
                left: first,
                right: v,
                right_turned: Turned::Yes,
                dims: [m, s, n],
            });
        } else {
            nodes.push(Node::Product {
                left: core,
                right: v,
                right_turned: Turned::Yes,
                dims: [r, s, n],
            });
            nodes.push(Node::Product {
                left: u,
                right: first,
                right_turned: Turned::No,
                dims: [m, r, n],
            });
        }
        let step = Step {
            node: first + 1,
            turned: Turned::No,
            lead: 1,
            rows: m,
            inner: n,
            cols: 1,
        };
        Program {
            nodes,
            steps: vec![step],
        }
    };
    match route {
        Route::Dense => dense(),
        Route::Cores => chain(false, false),
        Route::Auto => {
            let all = [
                chain(false, false),
                chain(true, false),
                chain(false, true),
                chain(true, true),
                dense(),
            ];
            let timed = all.into_iter().map(|p| (program_time(&p, batch), p));
            timed
                .min_by(|a, b| a.0.total_cmp(&b.0))
                .map_or_else(dense, |(_, p)| p)
        }
    }
}

fn program_time(program: &Program, batch: usize) -> f64 {
    let node = |n: &Node| match n {
        Node::Merge { dims, .. } => merge_time(dims),
        Node::Product {
            dims: [m, k, n], ..
        } => product_time(*m, *k, *n),
        Node::Turn { .. } | Node::Leaf { .. } => 0.0,
    };
    program.nodes.iter().map(node).sum::<f64>()
        + program
            .steps
            .iter()
            .map(|s| step_time(s, batch))
            .sum::<f64>()
}
