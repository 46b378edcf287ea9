//! Why a topology file cannot be used. Each error names file, line and column where that is known.

use std::fmt;
use std::path::{Path, PathBuf};

use rnet_api::ApiError;
use rnet_model::{InvalidInput, Kind};

/// A place in a topology file; lines and columns count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
}

impl Place {
    /// Of something in the file; `None` where the parser lost it (values that came in through a merge).
    pub(crate) fn of(location: serde_saphyr::Location) -> Option<Self> {
        (location.line() > 0).then(|| Place { line: location.line(), column: location.column() })
    }
}

/// Where an error is: `file:line:column`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// The topology file, as the user named it.
    pub file: PathBuf,
    /// Where in it.
    pub place: Option<Place>,
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        self.place.map_or(Ok(()), |p| write!(f, ":{}:{}", p.line, p.column))
    }
}

/// Why a topology file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// The file cannot be read.
    #[error("cannot read the topology {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not YAML, or not of the topology's shape (unknown key, duplicate key, wrong type).
    #[error("{spot}: {reason}")]
    Syntax {
        /// Where.
        spot: Spot,
        /// Why.
        reason: String,
    },
    /// The file is well formed and says something that cannot be.
    #[error("{spot}: {reason}")]
    Invalid {
        /// Where.
        spot: Spot,
        /// Why.
        reason: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// The file asks for something rnet does not do.
    #[error("{spot}: {reason}")]
    Unsupported {
        /// Where.
        spot: Spot,
        /// What.
        reason: String,
        /// What works in its place.
        hint: Option<String>,
    },
}

impl TopologyError {
    /// Decides the exit code.
    pub fn kind(&self) -> Kind {
        match self {
            TopologyError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Kind::Missing,
            TopologyError::Read { .. } | TopologyError::Syntax { .. } | TopologyError::Invalid { .. } => Kind::Invalid,
            TopologyError::Unsupported { .. } => Kind::Unsupported,
        }
    }

    /// What the user can do, when that is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            TopologyError::Invalid { hint, .. } | TopologyError::Unsupported { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }
}

impl From<TopologyError> for ApiError {
    fn from(e: TopologyError) -> Self {
        let mut api = ApiError::new(e.kind(), e.to_string());
        api.hint = e.hint().map(str::to_owned);
        if let Some(source) = std::error::Error::source(&e) {
            api = api.because(source);
        }
        api
    }
}

/// Makes errors about one file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) file: &'a Path,
    pub(crate) place: Option<Place>,
}

impl<'a> At<'a> {
    pub(crate) fn file(file: &'a Path) -> Self {
        At { file, place: None }
    }

    pub(crate) fn place(self, place: Option<Place>) -> Self {
        At { place: place.or(self.place), ..self }
    }

    fn spot(self) -> Spot {
        Spot { file: self.file.to_owned(), place: self.place }
    }

    pub(crate) fn syntax(self, reason: impl Into<String>) -> TopologyError {
        TopologyError::Syntax { spot: self.spot(), reason: reason.into() }
    }

    pub(crate) fn invalid(self, reason: impl Into<String>, hint: Option<&str>) -> TopologyError {
        TopologyError::Invalid { spot: self.spot(), reason: reason.into(), hint: hint.map(str::to_owned) }
    }

    pub(crate) fn unsupported(self, reason: impl Into<String>, hint: Option<&str>) -> TopologyError {
        TopologyError::Unsupported { spot: self.spot(), reason: reason.into(), hint: hint.map(str::to_owned) }
    }

    /// A value that is not valid, said of `whom`.
    pub(crate) fn value(self, whom: &str, e: &InvalidInput) -> TopologyError {
        self.invalid(format!("{whom}: {e}"), e.hint.as_deref())
    }
}
