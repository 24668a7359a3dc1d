//! "Did you mean": the names that are nearest to a pattern that matches none.

/// At most so many names are offered.
const MOST: usize = 3;

/// Names less alike than this are no help.
const ALIKE: f64 = 0.72;

/// The names most like a pattern, the nearest first.
pub(crate) fn nearest<'n>(pattern: &str, names: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
    let wanted: String = literal(pattern);
    if wanted.is_empty() {
        return Vec::new();
    }
    let mut found: Vec<(f64, &str)> = names
        .into_iter()
        .map(|name| (alike(&wanted, name), name))
        .filter(|(score, _)| *score >= ALIKE)
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    found.dedup_by(|a, b| a.1 == b.1);
    found.into_iter().take(MOST).map(|(_, name)| name).collect()
}

/// What a pattern would say without the signs that are no letters of a name.
fn literal(pattern: &str) -> String {
    let plain = |c: &char| c.is_alphanumeric() || matches!(c, '_' | '/' | ':' | '.' | '-');
    let text: String = pattern.chars().filter(plain).collect();
    text.replace(".*", "").trim_matches('.').to_lowercase()
}

/// From 0 to 1: of the whole name, or of the best run of its parts.
fn alike(wanted: &str, name: &str) -> f64 {
    let name = name.to_lowercase();
    let starts = name
        .char_indices()
        .filter(|&(at, _)| at == 0 || name[..at].ends_with(['/', ':', '.', '_']));
    let runs = starts.map(|(at, _)| {
        let rest = &name[at..];
        let end = rest.char_indices().nth(wanted.chars().count() + 1);
        let run = end.map_or(rest, |(end, _)| &rest[..end]);
        strsim::jaro_winkler(wanted, run) - 0.02
    });
    runs.fold(strsim::jaro_winkler(wanted, &name), f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_hand_finds_its_name() {
        let names = [
            "fc1.weight",
            "fc2.weight",
            "/encoder/layer.0/attention/query/MatMul",
            "/encoder/layer.0/output/dense/MatMul",
            "embeddings.word_embeddings.weight",
        ];
        let check = |pattern: &str, want: &str| {
            let found = nearest(pattern, names);
            assert_eq!(found.first(), Some(&want), "{pattern}: {found:?}");
            assert!(found.len() <= MOST);
        };
        check("fc1.wieght", "fc1.weight");
        check("^FC2$", "fc2.weight");
        check("qeury", "/encoder/layer.0/attention/query/MatMul");
        check("word_embedings", "embeddings.word_embeddings.weight");
    }

    #[test]
    fn what_is_like_nothing_offers_nothing() {
        assert!(nearest("zzz", ["fc1.weight"]).is_empty());
        assert!(nearest(".*", ["fc1.weight"]).is_empty());
        assert!(nearest("fc1", []).is_empty());
    }
}
