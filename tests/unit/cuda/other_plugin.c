/* A plugin of another version of the interface. */
int tenax_cuda_abi_version(void) { return 999; }
