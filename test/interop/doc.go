// Package interop holds our servers and clients against foreign ones. It has tests only.
//
// Everything runs on 127.0.0.1 or on sockets in the test's directory, without root. A foreign
// program that is not installed skips its test on a laptop and fails it where CI=true.
package interop
