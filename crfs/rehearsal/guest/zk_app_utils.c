/* The vendor's C interface, as its Python client declares it, on top of the simulated HSM6.
 *
 * Every call returns 0 or more when it went well, else a negative code. Memory handed out through
 * a pointer argument is malloc'ed and belongs to the caller.
 */
#include "zkline.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOT_IN_THE_SIMULATOR (-38)
#define IO_ERROR (-5)
#define MAX_FILE (1 << 20)

struct context {
    int open;
};

/* --- helpers ----------------------------------------------------------------------------------*/

static int ask_nothing_back(const char *verb, const void *data, size_t size)
{
    unsigned char *answer;
    size_t answer_size;
    int code = zkline_ask(verb, data, size, &answer, &answer_size);
    free(answer);
    return code;
}

static int ask_text(const char *verb, const char *text)
{
    return ask_nothing_back(verb, text, strlen(text));
}

static int ask_bytes(const char *verb, const void *data, size_t size, void **out, int *out_size)
{
    unsigned char *answer;
    size_t answer_size;
    int code = zkline_ask(verb, data, size, &answer, &answer_size);
    if (code < 0) {
        free(answer);
        return code;
    }
    *out = answer;
    if (out_size)
        *out_size = (int)answer_size;
    return code;
}

static int ask_float(const char *verb, float *value)
{
    void *text;
    int code = ask_bytes(verb, NULL, 0, &text, NULL);
    if (code < 0)
        return code;
    *value = strtof(text, NULL);
    free(text);
    return code;
}

static int read_file(const char *path, void **out, int *out_size)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return -2;
    char *bytes = malloc(MAX_FILE);
    size_t size = bytes ? fread(bytes, 1, MAX_FILE, file) : 0;
    bool good = bytes && !ferror(file) && feof(file);
    fclose(file);
    if (!good) {
        free(bytes);
        return IO_ERROR;
    }
    *out = bytes;
    *out_size = (int)size;
    return 0;
}

static int write_file(const char *path, const void *data, int size)
{
    FILE *file = fopen(path, "wb");
    if (!file)
        return IO_ERROR;
    bool good = fwrite(data, 1, (size_t)size, file) == (size_t)size;
    return fclose(file) == 0 && good ? 0 : IO_ERROR;
}

/* --- context, LED, random ---------------------------------------------------------------------*/

int zkOpen(void **ctx)
{
    int code = ask_text("ping", "");
    if (code < 0)
        return code;
    *ctx = calloc(1, sizeof(struct context));
    return *ctx ? 0 : -12;
}

int zkClose(void *ctx)
{
    free(ctx);
    return 0;
}

int zkLEDOn(void *ctx) { (void)ctx; return ask_text("led", "on"); }
int zkLEDOff(void *ctx) { (void)ctx; return ask_text("led", "off"); }

int zkLEDFlash(void *ctx, unsigned long on_ms, unsigned long off_ms, unsigned long count)
{
    char text[96];
    (void)ctx;
    snprintf(text, sizeof text, "flash %lu %lu %lu", on_ms, off_ms, count);
    return ask_text("led", text);
}

int zkGetRandBytes(void *ctx, void **out, int size)
{
    char text[16];
    (void)ctx;
    snprintf(text, sizeof text, "%d", size);
    return ask_bytes("random", text, strlen(text), out, NULL);
}

int zkCreateRandDataFile(void *ctx, const char *path, int size)
{
    void *bytes;
    int code = zkGetRandBytes(ctx, &bytes, size);
    if (code < 0)
        return code;
    code = write_file(path, bytes, size);
    free(bytes);
    return code;
}

/* --- locking ----------------------------------------------------------------------------------*/

int zkLockDataB2B(void *ctx, const void *src, int size, void **dst, int *dst_size, bool shared)
{
    (void)ctx;
    (void)shared;
    return ask_bytes("lock", src, (size_t)size, dst, dst_size);
}

int zkUnlockDataB2B(void *ctx, const void *src, int size, void **dst, int *dst_size, bool shared)
{
    (void)ctx;
    (void)shared;
    int code = ask_bytes("unlock", src, (size_t)size, dst, dst_size);
    return code < 0 ? code : 1; /* 1: opened, and the signature is good */
}

typedef int convert(void *, const void *, int, void **, int *, bool);

static int from_file(convert *how, void *ctx, const char *src, void **dst, int *size, bool shared)
{
    void *bytes;
    int count;
    int code = read_file(src, &bytes, &count);
    if (code < 0)
        return code;
    code = how(ctx, bytes, count, dst, size, shared);
    free(bytes);
    return code;
}

static int to_file(convert *how, void *ctx, const void *src, int size, const char *dst, bool shared)
{
    void *bytes;
    int count;
    int code = how(ctx, src, size, &bytes, &count, shared);
    if (code < 0)
        return code;
    code = write_file(dst, bytes, count);
    free(bytes);
    return code;
}

static int file_to_file(convert *how, void *ctx, const char *src, const char *dst, bool shared)
{
    void *bytes;
    int count;
    int code = read_file(src, &bytes, &count);
    if (code < 0)
        return code;
    code = to_file(how, ctx, bytes, count, dst, shared);
    free(bytes);
    return code;
}

int zkLockDataF2F(void *ctx, const char *src, const char *dst, bool shared)
{
    return file_to_file(zkLockDataB2B, ctx, src, dst, shared);
}

int zkLockDataB2F(void *ctx, const void *src, int size, const char *dst, bool shared)
{
    return to_file(zkLockDataB2B, ctx, src, size, dst, shared);
}

int zkLockDataF2B(void *ctx, const char *src, void **dst, int *size, bool shared)
{
    return from_file(zkLockDataB2B, ctx, src, dst, size, shared);
}

int zkUnlockDataF2F(void *ctx, const char *src, const char *dst, bool shared)
{
    return file_to_file(zkUnlockDataB2B, ctx, src, dst, shared);
}

int zkUnlockDataB2F(void *ctx, const void *src, int size, const char *dst, bool shared)
{
    return to_file(zkUnlockDataB2B, ctx, src, size, dst, shared);
}

int zkUnlockDataF2B(void *ctx, const char *src, void **dst, int *size, bool shared)
{
    return from_file(zkUnlockDataB2B, ctx, src, dst, size, shared);
}

/* --- binding, perimeter, battery, clock, identity ---------------------------------------------*/

int zkLockBinding(void *ctx) { (void)ctx; return ask_text("lock-binding", ""); }

int zkGetCurrentBindingInfo(void *ctx, bool *locked, bool *bound)
{
    void *text;
    (void)ctx;
    int code = ask_bytes("binding", NULL, 0, &text, NULL);
    if (code < 0)
        return code;
    *locked = ((char *)text)[0] == '1';
    *bound = *locked && ((char *)text)[1] == '1';
    free(text);
    return code;
}

int zkGetPerimeterDetectInfo(void *ctx, void **stamps, int *count)
{
    void *text;
    (void)ctx;
    int code = ask_bytes("perimeter", NULL, 0, &text, NULL);
    if (code < 0)
        return code;
    uint32_t *values = calloc(2, sizeof *values);
    char *next = text;
    for (int i = 0; values && i < 2; i++)
        values[i] = (uint32_t)strtoul(next, &next, 10);
    free(text);
    if (!values)
        return -12;
    *stamps = values;
    *count = 2;
    return code;
}

int zkClearPerimeterDetectEvents(void *ctx) { (void)ctx; return ask_text("perimeter-clear", ""); }

int zkSetPerimeterEventAction(void *ctx, int channel, int actions)
{
    char text[32];
    (void)ctx;
    snprintf(text, sizeof text, "%d %d", channel, actions);
    return ask_text("perimeter-action", text);
}

int zkGetBatteryVoltage(void *ctx, float *volts) { (void)ctx; return ask_float("battery", volts); }

int zkSetBatteryVoltageAction(void *ctx, int action)
{
    char text[16];
    (void)ctx;
    snprintf(text, sizeof text, "%d", action);
    return ask_text("battery-action", text);
}

int zkSetBatteryVoltageThreshold(void *ctx, float volts)
{
    char text[32];
    (void)ctx;
    snprintf(text, sizeof text, "%.3f", (double)volts);
    return ask_text("battery-threshold", text);
}

int zkGetCPUTemp(void *ctx, float *celsius) { (void)ctx; return ask_float("temperature", celsius); }
int zkGetRTCDrift(void *ctx, float *drift) { (void)ctx; return ask_float("drift", drift); }

int zkGetTime(void *ctx, int *seconds, bool precise)
{
    void *text;
    (void)ctx;
    (void)precise;
    int code = ask_bytes("time", NULL, 0, &text, NULL);
    if (code < 0)
        return code;
    *seconds = atoi(text);
    free(text);
    return code;
}

int zkGetModelNumberString(void *ctx, void **text)
{
    (void)ctx;
    return ask_bytes("model", NULL, 0, text, NULL);
}

int zkGetFirmwareVersionString(void *ctx, void **text)
{
    (void)ctx;
    return ask_bytes("firmware", NULL, 0, text, NULL);
}

int zkGetSerialNumberString(void *ctx, void **text)
{
    (void)ctx;
    return ask_bytes("serial", NULL, 0, text, NULL);
}

int zkSetI2CAddr(void *ctx, int address)
{
    char text[16];
    (void)ctx;
    snprintf(text, sizeof text, "%d", address);
    return ask_text("i2c", text);
}

/* --- public keys ------------------------------------------------------------------------------*/

int zkStoreForeignPubKey(void *ctx, int type, const void *key, int size)
{
    unsigned char *data = malloc((size_t)size + 1);
    (void)ctx;
    if (!data)
        return -12;
    data[0] = (unsigned char)type;
    memcpy(data + 1, key, (size_t)size);
    int slot = ask_nothing_back("foreign-key", data, (size_t)size + 1);
    free(data);
    return slot;
}

int zkExportPubKey(void *ctx, void **key, int *size, int slot, bool foreign)
{
    char text[24];
    (void)ctx;
    snprintf(text, sizeof text, "%d %d", slot, foreign);
    return ask_bytes("public-key", text, strlen(text), key, size);
}

int zkExportPubKey2File(void *ctx, const char *path, int slot, bool foreign)
{
    void *key;
    int size;
    int code = zkExportPubKey(ctx, &key, &size, slot, foreign);
    if (code < 0)
        return code;
    code = write_file(path, key, size);
    free(key);
    return code;
}

int zkGetECDSAPubKey(void *ctx, void **key, int *size, int slot)
{
    return zkExportPubKey(ctx, key, size, slot, false);
}

int zkSaveECDSAPubKey2File(void *ctx, const char *path, int slot)
{
    return zkExportPubKey2File(ctx, path, slot, false);
}

int zkGetAllocSlotsList(void *ctx, bool foreign, int *max_keys, void **slots, int *count)
{
    void *text;
    (void)ctx;
    int code = ask_bytes("slots", foreign ? "1" : "0", 1, &text, NULL);
    if (code < 0)
        return code;
    char *next = text;
    *max_keys = (int)strtol(next, &next, 10);
    *count = (int)strtol(next, &next, 10);
    int *list = calloc((size_t)*count + 1, sizeof *list);
    for (int i = 0; list && i < *count; i++)
        list[i] = (int)strtol(next, &next, 10);
    free(text);
    *slots = list;
    return list ? code : -12;
}

/* --- what the real module can do and this one cannot ------------------------------------------*/

#define MISSING(name) \
    int name(void) { return NOT_IN_THE_SIMULATOR; }

MISSING(zkGenECDSASigFromDigest)
MISSING(zkGenECDSASigFromDigestWithRecID)
MISSING(zkVerifyECDSASigFromDigest)
MISSING(zkVerifyECDSASigFromDigestWithForeignKeySlot)
MISSING(zkDisablePubKeyExport)
MISSING(zkGenKeyPair)
MISSING(zkGenEphemeralKeyPair)
MISSING(zkRemoveKey)
MISSING(zkInvalidateEphemeralKey)
MISSING(zkDoRawECDH)
MISSING(zkDoRawECDHWithIntPeerPubkey)
MISSING(zkDoECDHAndKDF)
MISSING(zkDoECDHAndKDFWithIntPeerPubkey)
MISSING(zkGenWalletMasterSeedWithBIP39)
MISSING(zkGenWalletMasterSeedWithSLIP39)
MISSING(zkSetSLIP39GroupInfo)
MISSING(zkAddSLIP39MemberPassword)
MISSING(zkCancelSLIP39Session)
MISSING(zkGenOversightWallet)
MISSING(zkRestoreWalletMasterSeedFromBIP39Mnemonic)
MISSING(zkAddRestoreSLIP39Mnemonic)
MISSING(zkRestoreWalletMasterSeedFromSLIP39)
MISSING(zkGenWalletChildKey)
MISSING(zkGetWalletNodeAddrFromKeySlot)
MISSING(zkGetWalletKeySlotFromNodeAddr)
MISSING(zkGetAUXTemp)
MISSING(zkSetDigitalPerimeterDetectLPPeriod)
MISSING(zkSetDigitalPerimeterDetectLPMaxBits)
MISSING(zkSetDigitalPerimeterDetectDelays)
MISSING(zkSetCPUTempAction)
MISSING(zkSetCPULowTempThreshold)
MISSING(zkSetCPUHighTempThreshold)
MISSING(zkSetSupervisedBootPolicy)
MISSING(zkAddOrUpdateSupervisedBootFile)
MISSING(zkRemoveSupervisedBootFile)
MISSING(zkGetSupervisedBootFileManifest)
MISSING(zkSetTapSensitivity)
MISSING(zkWaitForTap)
MISSING(zkGetAccelerometerData)
MISSING(zkWaitForPerimeterEvent)
