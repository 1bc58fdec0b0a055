// A library that says it is an NCCL of the version that the build gives, and is nothing else.
extern "C" __attribute__((visibility("default"))) int ncclGetVersion(int* version) {
  *version = WEIGHTCAST_TEST_NCCL_VERSION;
  return 0;
}
