//! The examples under `--help`, one text for each command.

pub(crate) const INSPECT: &str = "\
Examples:
  tnq inspect model.onnx
  tnq inspect model.onnx --json";

pub(crate) const COMPRESS: &str = "\
Examples:
  tnq compress model.onnx -o small.onnx
  tnq compress model.onnx -o small.onnx --calib samples.npz --ranks eps=0.05 --bits 4
  tnq compress model.onnx -o small.onnx --format tt --layout interleaved --ranks 16 \\
      --modes 4x7x4x7:4x8x8x4 --layer 'fc2=modes=4x8x8x4:4x8x8x4' --layer 'head=keep'
  tnq compress model.onnx -o small.onnx --format tt --ranks 8 --bits 4 --finetune train.npz
  tnq compress encoder.onnx -o small.onnx --calib tokens.npz --target-size 8MB --finetune train.npz";

pub(crate) const PLAN: &str = "\
Examples:
  tnq plan model.onnx --calib samples.npz --target-size 8x
  tnq plan model.onnx --calib samples.npz --max-loss 1% -o plan.json";

pub(crate) const FINETUNE: &str = "\
Examples:
  tnq finetune model.onnx small.onnx -o tuned.onnx --data train.npz
  tnq finetune model.onnx small.onnx -o tuned.onnx --data train.npz --minutes 30 --checkpoint run.safetensors
  tnq finetune encoder.onnx small.onnx -o tuned.onnx --data tokens.npz --mask attention_mask --train +norms";

pub(crate) const VERIFY: &str = "\
Examples:
  tnq verify model.onnx small.onnx
  tnq verify model.onnx small.onnx --data test.npz --json";

pub(crate) const REPORT: &str = "\
Examples:
  tnq compress model.onnx -o small.onnx --calib samples.npz --target-size 8x --json > result.json
  tnq report result.json -o report.html";

pub(crate) const RUN: &str = "\
Examples:
  tnq run small.onnx --input test.npz -o out.npz
  tnq run small.onnx --input test.npz -o out.npz --engine fused";

pub(crate) const DECOMPOSE: &str = "\
Examples:
  tnq decompose w.npy -o w.safetensors
  tnq decompose w.npz --name fc1 -o fc1.safetensors --modes 4x7x4x7:4x8x8x4 --ranks 16 --bits 4
  tnq decompose w.npy -o w.safetensors --format low-rank --ranks 64 --calib inputs.npy
  tnq decompose images.npy -o images.safetensors --format tucker --ranks eps=0.05 --bits float";

pub(crate) const RECONSTRUCT: &str = "\
Examples:
  tnq reconstruct w.safetensors -o w.npy";

pub(crate) const STUDY_QAT: &str = "\
Examples:
  tnq study qat mlp.onnx --data train.npz --held-out dev.npz -o qat.svg
  tnq study qat encoder.onnx --data tokens.npz --layer 'layer.0.*dense' --ranks 32,16 --bits 8,4";

pub(crate) const STUDY_RANKS: &str = "\
Examples:
  tnq study ranks mlp.onnx -o ranks.svg";

pub(crate) const STUDY_BITS: &str = "\
Examples:
  tnq study bits mlp.onnx -o bits.svg";

pub(crate) const STUDY_GAUGE: &str = "\
Examples:
  tnq study gauge mlp.onnx -o gauge.svg --json";

pub(crate) const COMPLETIONS: &str = "\
Examples:
  tnq completions bash > ~/.local/share/bash-completion/completions/tnq";

pub(crate) const MAN: &str = "\
Examples:
  tnq man > tnq.1";

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use crate::args::Cli;

    /// The arguments that a shell makes of a line: quotes are single ones, what is redirected is left out.
    fn arguments(line: &str) -> Vec<String> {
        let mut arguments = vec![String::new()];
        let mut quoted = false;
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => arguments.push(String::new()),
                _ => arguments.last_mut().unwrap().push(c),
            }
        }
        arguments.retain(|argument| !argument.is_empty());
        let words = arguments.iter().position(|argument| argument == ">");
        arguments.truncate(words.unwrap_or(arguments.len()));
        arguments
    }

    fn check(command: &clap::Command) {
        let subcommands: Vec<_> = command.get_subcommands().collect();
        if !subcommands.is_empty() {
            return subcommands.into_iter().for_each(check);
        }
        let name = command.get_name();
        let help = command.get_after_help().map(ToString::to_string);
        let help = help.unwrap_or_default().replace(" \\\n", " ");
        let lines = help.lines().filter(|line| line.starts_with("  tnq "));
        let lines: Vec<_> = lines.collect();
        assert!(
            help.starts_with("Examples:") && !lines.is_empty(),
            "{name} has no examples"
        );
        for line in lines {
            if let Err(error) = Cli::try_parse_from(arguments(line)) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn every_command_has_examples_and_they_are_right() {
        check(&Cli::command());
    }
}
