//! Recipes: names for pipelines that choose numbers. An output format follows each of them.

/// A recipe.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// Name, as `-O` takes it.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// The passes up to the output format; empty for import and export only.
    pub passes: &'static str,
    /// The pass that options in braces are for: `-O 'kl{search=exact}'`.
    pub main: &'static str,
}

/// Every recipe.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "none",
        summary: "import and export only: the output is the input",
        passes: "",
        main: "",
    },
    Recipe {
        name: "rtn",
        summary: "round to nearest on the range of each group; fastest, needs no data",
        passes: "infer-types,select{scan=false},rtn",
        main: "rtn",
    },
    Recipe {
        name: "kl",
        summary: "search scales by error weighted with the inputs; needs no data, better with it",
        passes: "infer-types,select,kl-precalibrate",
        main: "kl-precalibrate",
    },
    Recipe {
        name: "adpq",
        summary: "a second scale for the largest weights of each group; --format function or fake",
        passes: "infer-types,select,adpq",
        main: "adpq",
    },
    Recipe {
        name: "gptq",
        summary: "round with error feedback; calibrates, on samples or on text of the model",
        passes: "infer-types,select,gptq",
        main: "gptq",
    },
    Recipe {
        name: "signround",
        summary: "tune rounding and scales for the outputs; calibrates, on samples or on text of the model",
        passes: "infer-types,select,signround,tune-scales",
        main: "signround",
    },
];

/// How long `signround` tunes.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Name, as `--preset` takes it and the pass has it.
    pub name: &'static str,
    /// Steps that train the scales of the whole model behind it.
    pub scale_steps: u16,
}

/// Every preset, the shortest first.
pub const PRESETS: &[Preset] = &[
    Preset { name: "fast", scale_steps: 0 },
    Preset { name: "light", scale_steps: 0 },
    Preset { name: "std", scale_steps: 50 },
    Preset { name: "best", scale_steps: 150 },
];

/// What a level stands for: the name of a recipe, and the preset where that is not the default.
const LEVELS: [(&str, Option<&str>); 4] =
    [("rtn", None), ("kl", None), ("signround", None), ("signround", Some("best"))];

impl Recipe {
    /// Finds a recipe by name, or by level: `0` to `3`.
    pub fn find(name: &str) -> Option<&'static Self> {
        let name = level(name).map_or(name, |it| it.0);
        RECIPES.iter().find(|it| it.name == name)
    }

    /// The preset that a level asks for.
    pub(crate) fn preset_of(name: &str) -> Option<&'static str> {
        level(name)?.1
    }
}

fn level(name: &str) -> Option<(&'static str, Option<&'static str>)> {
    let number = name.parse::<usize>().ok().filter(|_| name.len() == 1)?;
    LEVELS.get(number).copied()
}
