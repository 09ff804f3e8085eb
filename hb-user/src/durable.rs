//! Files that are whole or not there, whatever happens in between.
