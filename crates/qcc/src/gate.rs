//! Gates: how far a figure may be from what it should be, as `--fail-above` takes them.

use std::fmt;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Value};
use qcc_pass::nearest;

use crate::{Compared, Comparison, Error, Evaluation, OutputDistance};

/// A figure of the outputs of two models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Signal to noise in decibels.
    Snr,
    /// Cosine of the angle.
    Cosine,
    /// Largest difference of an element.
    Max,
    /// Norm of the difference over that of the first model's output.
    Relative,
    /// Share of elements that differ, of outputs that are not floats.
    Unequal,
    /// KL divergence from the reference, in nats for each token.
    Kl,
    /// Share of tokens that both rank first.
    Top1,
    /// Perplexity.
    Perplexity,
    /// By how much of that of the reference the perplexity is higher.
    Rise,
}

impl Metric {
    /// Figures of a [`Comparison`].
    const COMPARED: &[Self] = &[Self::Snr, Self::Cosine, Self::Max, Self::Relative, Self::Unequal];

    /// Figures of an [`Evaluation`]; a rise is written as perplexity.
    const EVALUATED: &[Self] =
        &[Self::Kl, Self::Top1, Self::Perplexity, Self::Snr, Self::Cosine, Self::Max];

    /// The figure that a gate names.
    fn find(name: &str) -> Option<Self> {
        let name = if name == "ppl" { "perplexity" } else { name };
        let all = Self::COMPARED.iter().chain(Self::EVALUATED);
        all.copied().find(|it| it.name() == name)
    }

    /// As it is written in a gate.
    pub fn name(self) -> &'static str {
        match self {
            Self::Snr => "snr",
            Self::Cosine => "cosine",
            Self::Max => "max",
            Self::Relative => "relative",
            Self::Unequal => "unequal",
            Self::Kl => "kl",
            Self::Top1 => "top1",
            Self::Perplexity => "perplexity",
            Self::Rise => "rise of perplexity",
        }
    }

    /// Whether more is better.
    pub fn is_least(self) -> bool {
        matches!(self, Self::Snr | Self::Cosine | Self::Top1)
    }

    fn of(self, it: &Compared) -> Option<f64> {
        let is_of_floats = self != Self::Unequal;
        let figure = match self {
            Self::Snr => it.snr_db,
            Self::Cosine => it.cosine,
            Self::Max => it.max_abs,
            Self::Relative => it.relative,
            Self::Unequal => it.unequal_share(),
            Self::Kl | Self::Top1 | Self::Perplexity | Self::Rise => return None,
        };
        (it.is_float == is_of_floats).then_some(figure)
    }
}

/// A figure and its limit: the least for `snr`, `cosine` and `top1`, the most for the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gate {
    /// What is looked at.
    pub metric: Metric,
    /// The limit; a share where `relative`, `unequal` and `top1` are written in percent.
    pub limit: f64,
}

impl Gate {
    /// Reads a gate of `qcc compare`: `snr:15dB`, `cosine:0.99`, `max:0.5`, `relative:0.1`,
    /// `relative:10%`, `unequal:1%`.
    ///
    /// # Errors
    /// Says what a gate looks like, and which figures there are.
    pub fn of_comparison(text: &str) -> Result<Self, String> {
        Self::parse(text, Metric::COMPARED, "; 'qcc eval' has kl, top1 and perplexity")
    }

    /// Reads a gate of `qcc eval`: `kl:0.02`, `top1:90%`, `perplexity:20`, `perplexity:+2%` (or
    /// `ppl`), `snr:15dB`, `cosine:0.99`, `max:0.5`.
    ///
    /// # Errors
    /// Says what a gate looks like, and which figures there are.
    pub fn of_evaluation(text: &str) -> Result<Self, String> {
        Self::parse(text, Metric::EVALUATED, "; 'qcc compare' has relative and unequal")
    }

    /// `elsewhere` says which figures another command has.
    fn parse(text: &str, metrics: &[Metric], elsewhere: &str) -> Result<Self, String> {
        let names: Vec<&str> = metrics.iter().map(|it| it.name()).collect();
        let all = format!("figures are {}", names.join(", "));
        let Some((name, limit)) = text.split_once(':') else {
            return Err(format!("a gate is a figure and its limit, 'snr:15dB'; {all}"));
        };
        let name = name.trim().to_ascii_lowercase();
        let Some(metric) = Metric::find(&name) else {
            let meant = nearest(&name, names);
            let meant = meant.map_or(String::new(), |it| format!(", write '{it}'"));
            return Err(format!("there is no figure '{name}'{meant}; {all}"));
        };
        if !metrics.contains(&metric) {
            return Err(format!("there is no {name} here; {all}{elsewhere}"));
        }
        let limit = limit.trim().to_ascii_lowercase();
        let is_rise = metric == Metric::Perplexity && limit.starts_with('+');
        let metric = if is_rise { Metric::Rise } else { metric };
        let (number, scale) = match metric {
            Metric::Rise => (limit.strip_suffix('%').unwrap_or_default(), 0.01),
            Metric::Snr => (limit.strip_suffix("db").unwrap_or(&limit), 1.0),
            Metric::Relative | Metric::Unequal | Metric::Top1 => match limit.strip_suffix('%') {
                Some(percent) => (percent, 0.01),
                None => (limit.as_str(), 1.0),
            },
            Metric::Cosine | Metric::Max | Metric::Kl | Metric::Perplexity => (limit.as_str(), 1.0),
        };
        let number: Option<f64> = number.trim().parse().ok();
        let limit = number.filter(|it| it.is_finite()).map(|it| it * scale);
        let (is_right, range) = match metric {
            Metric::Snr => (limit.is_some(), "decibels, 15dB"),
            Metric::Cosine => (limit.is_some_and(|it| it.abs() <= 1.0), "a number from -1 to 1"),
            Metric::Max | Metric::Kl => (limit.is_some_and(|it| it >= 0.0), "a number from 0 on"),
            Metric::Perplexity => (limit.is_some_and(|it| it >= 0.0), "a number from 0 on, or +2%"),
            Metric::Rise => {
                (limit.is_some_and(|it| it >= 0.0), "a share of that of the reference, +2%")
            }
            Metric::Relative => (limit.is_some_and(|it| it >= 0.0), "a number from 0 on, or 10%"),
            Metric::Unequal | Metric::Top1 => {
                (limit.is_some_and(|it| (0.0..=1.0).contains(&it)), "a share from 0 to 1, or 1%")
            }
        };
        match limit {
            Some(limit) if is_right => Ok(Self { metric, limit }),
            _ => Err(format!("the limit of {} is {range}", metric.name())),
        }
    }

    /// Whether an output of both graphs can have the figure, before they run.
    ///
    /// # Errors
    /// QCC0405 when none can.
    pub fn check_outputs(&self, a: &Graph, b: &Graph) -> Result<(), Error> {
        let of_b: Vec<&str> = b.outputs().iter().map(|it| b.value_name(*it)).collect();
        let mut of_both = a.outputs().iter().filter(|it| of_b.contains(&a.value_name(**it)));
        let fits = |it: &Value| {
            a.ty(*it).dtype().is_none_or(|it| it.is_float() == (self.metric != Metric::Unequal))
        };
        if of_both.any(fits) { Ok(()) } else { Err(self.no_output()) }
    }

    fn no_output(&self) -> Error {
        let kind = if self.metric == Metric::Unequal { "that is not floats" } else { "of floats" };
        let name = self.metric.name();
        let text = format!("no output {kind} is in both models, so there is no {name}");
        Diagnostic::error(codes::QCC0405, text)
            .at("option --fail-above")
            .with_help(format!("leave the gate {name} out"))
            .into()
    }

    /// The output that is farthest from the limit, or nearest to it when all are within.
    ///
    /// # Errors
    /// QCC0405 when no output has the figure.
    pub fn check(&self, comparison: &Comparison) -> Result<Verdict, Error> {
        let outputs = comparison.values.iter().filter(|it| it.is_output);
        let figures = outputs.filter_map(|it| Some((it.name.as_str(), self.metric.of(it)?)));
        self.worst(figures).ok_or_else(|| self.no_output())
    }

    /// Whether an evaluation can have the figure, before the model runs.
    ///
    /// # Errors
    /// QCC0404 when it needs a reference that is not there.
    pub fn check_reference(&self, is_there: bool) -> Result<(), Error> {
        if is_there || self.metric == Metric::Perplexity { Ok(()) } else { Err(self.no_figure()) }
    }

    fn no_figure(&self) -> Error {
        Diagnostic::error(codes::QCC0404, format!("the evaluation gives no {}", self.metric.name()))
            .at("option --fail-above")
            .with_help("all but perplexity itself need --ref FLOAT.onnx; kl, top1 and perplexity need logits")
            .into()
    }

    /// The figure of a model, or that of its output that is farthest from the limit.
    ///
    /// # Errors
    /// QCC0404 when the evaluation has no such figure.
    pub fn check_evaluation(&self, it: &Evaluation) -> Result<Verdict, Error> {
        let of_model =
            |figure: Option<f64>| figure.map(|it| ("the model", it)).into_iter().collect();
        let of_outputs = |figure: fn(&OutputDistance) -> f64| {
            it.outputs.iter().map(|it| (it.name.as_str(), figure(it))).collect()
        };
        let figures: Vec<(&str, f64)> = match self.metric {
            Metric::Kl => of_model(it.kl_nats),
            Metric::Top1 => of_model(it.top1),
            Metric::Perplexity => of_model(it.perplexity),
            Metric::Rise => {
                let both = it.perplexity.zip(it.reference_perplexity);
                of_model(both.map(|(own, reference)| own / reference - 1.0))
            }
            Metric::Snr => of_outputs(|it| it.snr_db),
            Metric::Cosine => of_outputs(|it| it.cosine),
            Metric::Max => of_outputs(|it| it.max_abs),
            Metric::Relative | Metric::Unequal => Vec::new(),
        };
        self.worst(figures.into_iter()).ok_or_else(|| self.no_figure())
    }

    fn worst<'a>(&self, figures: impl Iterator<Item = (&'a str, f64)>) -> Option<Verdict> {
        // What is no number is worse than all that are.
        let badness = |it: f64| match self.metric.is_least() {
            _ if it.is_nan() => f64::INFINITY,
            true => -it,
            false => it,
        };
        let (output, figure) = figures.max_by(|a, b| badness(a.1).total_cmp(&badness(b.1)))?;
        let passed =
            if self.metric.is_least() { figure >= self.limit } else { figure <= self.limit };
        Some(Verdict { gate: *self, output: output.to_owned(), figure, passed })
    }

    /// A figure as the gate is written.
    pub fn text(&self, figure: f64) -> String {
        match self.metric {
            Metric::Snr if figure == f64::INFINITY => "exact".to_owned(),
            Metric::Snr => format!("{} dB", short(figure, 1)),
            Metric::Unequal | Metric::Top1 => format!("{} %", short(100.0 * figure, 2)),
            Metric::Rise => {
                let sign = if figure < 0.0 { "" } else { "+" };
                format!("{sign}{} %", short(100.0 * figure, 2))
            }
            Metric::Cosine | Metric::Kl => short(figure, 5),
            Metric::Max | Metric::Relative | Metric::Perplexity => short(figure, 4),
        }
    }
}

/// With at most so many digits behind the point, and those that matter for small numbers.
fn short(it: f64, digits: usize) -> String {
    let text = format!("{it:.digits$}");
    if it != 0.0 && text.trim_matches(['-', '0', '.']).is_empty() {
        return format!("{it:.1e}");
    }
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.metric.is_least() { ">=" } else { "<=" };
        write!(f, "{} {sign} {}", self.metric.name(), self.text(self.limit))
    }
}

/// What a gate found.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The gate.
    pub gate: Gate,
    /// The output that is the worst, or `the model`.
    pub output: String,
    /// Its figure.
    pub figure: f64,
    /// Whether it is within the limit.
    pub passed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Inner;

    fn gate(text: &str) -> Gate {
        Gate::of_comparison(text).or_else(|_| Gate::of_evaluation(text)).unwrap()
    }

    #[test]
    fn gates_are_read_and_told() {
        for (text, told) in [
            ("snr:15dB", "snr >= 15 dB"),
            ("SNR: 12.25 db", "snr >= 12.2 dB"),
            ("snr:-3", "snr >= -3 dB"),
            ("cosine:0.99", "cosine >= 0.99"),
            ("max:0", "max <= 0"),
            ("max:1e-6", "max <= 1.0e-6"),
            ("relative:10%", "relative <= 0.1"),
            ("relative:2", "relative <= 2"),
            ("unequal:1%", "unequal <= 1 %"),
            ("kl:0.02", "kl <= 0.02"),
            ("top1:92.5%", "top1 >= 92.5 %"),
            ("perplexity:40", "perplexity <= 40"),
            ("ppl:40", "perplexity <= 40"),
            ("ppl:+2%", "rise of perplexity <= +2 %"),
            ("perplexity:+0.5%", "rise of perplexity <= +0.5 %"),
        ] {
            assert_eq!(gate(text).to_string(), told, "{text}");
        }
        assert_eq!(gate("relative:10%").limit, 0.1);
        for text in [
            "",
            "snr",
            "15",
            "snr:",
            "snr:dB",
            "snr:nan",
            "snr:inf",
            "snr:15%",
            "cosine:1.1",
            "cosine:15dB",
            "max:-1",
            "relative:-1%",
            "unequal:101%",
            "ppl:+2",
            "ppl:+-2%",
            "kl:+2%",
        ] {
            assert!(Gate::of_comparison(text).is_err(), "{text}");
            assert!(Gate::of_evaluation(text).is_err(), "{text}");
        }
        assert!(Gate::of_comparison("cosin:1").unwrap_err().contains("write 'cosine'"));
    }

    #[test]
    fn a_command_names_the_figures_that_it_has() {
        let said = Gate::of_comparison("kl:1").unwrap_err();
        assert!(
            said.starts_with("there is no kl here; figures are snr, cosine, max, rel"),
            "{said}"
        );
        assert!(said.contains("'qcc eval' has kl"), "{said}");
        let said = Gate::of_evaluation("relative:1").unwrap_err();
        assert!(said.contains("figures are kl, top1") && said.contains("'qcc compare'"), "{said}");
    }

    fn value(snr_db: f64, cosine: f64, unequal: Option<u64>) -> Compared {
        Compared {
            name: format!("{snr_db} {cosine}"),
            is_output: true,
            block: None,
            is_float: unequal.is_none(),
            elements: 4,
            max_abs: 1.0,
            relative: 0.5,
            cosine,
            snr_db,
            unequal: unequal.unwrap_or(0),
            not_finite: [0, 0],
            not_finite_differ: 0,
        }
    }

    fn comparison(values: Vec<Compared>) -> Comparison {
        Comparison {
            samples: 1,
            inner: Inner::All,
            values,
            first: None,
            outputs_of_one: [Vec::new(), Vec::new()],
            inner_of_one: [0, 0],
            notes: Vec::new(),
        }
    }

    #[test]
    fn the_worst_output_counts() {
        let it = comparison(vec![
            value(20.0, 0.99, None),
            value(f64::INFINITY, 1.0, None),
            value(10.0, 0.95, None),
            value(0.0, 0.0, Some(1)),
        ]);
        let check = |text: &str| gate(text).check(&it).unwrap();
        let snr = check("snr:15");
        assert_eq!((snr.figure, snr.passed, snr.output.as_str()), (10.0, false, "10 0.95"));
        assert!(check("snr:10").passed && check("cosine:0.95").passed);
        assert!(!check("cosine:0.96").passed);
        assert!(check("max:1").passed && !check("max:0.9").passed);
        assert!(check("relative:50%").passed && !check("relative:49%").passed);
        assert!(check("unequal:25%").passed && !check("unequal:0.24").passed);
    }

    #[test]
    fn an_evaluation_has_figures_of_its_own() {
        let output = |name: &str, snr_db, cosine, max_abs| {
            let name = name.to_owned();
            OutputDistance { name, snr_db, cosine, max_abs, ..OutputDistance::default() }
        };
        let outputs = vec![output("a", 20.0, 0.99, 0.5), output("b", 10.0, 0.999, 0.1)];
        let it = Evaluation { kl_nats: Some(0.03), top1: Some(0.9), outputs, ..Default::default() };
        let check = |text: &str| gate(text).check_evaluation(&it).unwrap();
        assert!(check("kl:0.03").passed && !check("kl:0.02").passed);
        assert!(check("top1:90%").passed && !check("top1:0.91").passed);
        assert_eq!((check("snr:15").output.as_str(), check("snr:15").passed), ("b", false));
        assert!(check("cosine:0.99").passed && !check("max:0.4").passed);
        assert!(gate("perplexity:40").check_evaluation(&it).is_err());
        assert!(gate("ppl:+2%").check_evaluation(&it).is_err());
        let (perplexity, reference_perplexity) = (Some(10.2), Some(10.0));
        let it = Evaluation { perplexity, reference_perplexity, ..it };
        let check = |text: &str| gate(text).check_evaluation(&it).unwrap().passed;
        assert!(check("ppl:+2.1%") && !check("ppl:+1.9%") && check("ppl:10.2"));
    }

    #[test]
    fn what_is_no_number_fails() {
        let nothing = value(f64::NAN, f64::NAN, None);
        let it = comparison(vec![Compared { max_abs: f64::NAN, relative: f64::NAN, ..nothing }]);
        for text in ["snr:-1000", "cosine:-1", "max:1e30", "relative:1e30"] {
            assert!(!gate(text).check(&it).unwrap().passed, "{text}");
        }
        let it = comparison(vec![value(f64::NEG_INFINITY, f64::NAN, None), value(5.0, 0.5, None)]);
        assert!(!gate("cosine:-1").check(&it).unwrap().passed);
        assert!(!gate("snr:-1000").check(&it).unwrap().passed);
        assert!(gate("unequal:1").check(&it).is_err(), "there is no such output");
    }
}
