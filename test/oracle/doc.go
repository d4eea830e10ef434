// Package oracle compares our codecs with those of other projects. It is a separate module with
// tests only, so that the product does not depend on those projects. Permitted differences are
// described where the tests accept them.
package oracle
