//! In-memory siblings of the real surfaces.
