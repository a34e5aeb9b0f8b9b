//! Types shared by the kernel and the user side.
