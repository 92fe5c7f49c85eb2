package main

func writeGolden(dir string, seed int64, n int) {}
