// Package oracle holds our codecs against those of others, which the product is not to depend on: it is a module of its
// own, with tests only. What differs and may is said where it is let pass.
package oracle
