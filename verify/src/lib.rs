//! The judgement: observations in, verdict out.
